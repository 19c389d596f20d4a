"""What became of a split's records, in words: said before anything is trained on them or scored."""

from __future__ import annotations

from typing import Any

MOST = 12  # labels named


def lines(split: str, report: dict[str, Any]) -> list[str]:
    """Return what there is to know of a split from its table's report: a line of counts, then one for each oddity."""
    real = [report[name] for name in ("source_real", "real") if name in report]
    shares = " and ".join(f"{share:.1%}" for share in real)
    rows = f"{report['rows']:,} rows of {report['per_row']:.1f}, {shares} real tokens"
    said = [f"{split}: {report['examples']:,} examples in {rows}"]
    kept = "left out" if split == "train" else "kept"
    oddities = {
        "empty": f"have no text ({kept})",
        "unlabelled": "have no label (left out)",
        "cut": "are longer than a row: cut",
        "cut_targets": "have a target longer than its part: cut",
        "split": "are longer than a row: read in windows that overlap",
        "begun_inside": "entities begin with an I- tag: read as B-",
    }
    said += [f"{split}: {report[name]:,} {words}" for name, words in oddities.items() if report.get(name)]
    labels = sorted(report.get("labels", {}).items(), key=lambda pair: -pair[1])
    if labels:
        more = f" and {len(labels) - MOST} more" if len(labels) > MOST else ""
        said.append(f"{split}: " + ", ".join(f"{name} {count:,}" for name, count in labels[:MOST]) + more)
    tags = "begun_inside" in report  # which tagging alone counts
    if tags and split == "train" and labels and all(name.isdecimal() for name, _ in labels):
        said.append(f"{split}: all tags are numbers, so no entities are marked: name them with objective.labels")
    if report.get("unseen"):
        names = ", ".join(f"{name} ({count:,})" for name, count in report["unseen"].items())
        said.append(f"{split}: never met in training, so never told right but by chance: {names}")
    return said
