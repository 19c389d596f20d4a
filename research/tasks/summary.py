"""What became of a split's records, in words: said before anything is trained on them or scored."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from research.tasks.survey import Survey
from research.types import Split

if TYPE_CHECKING:
    from research.tasks.prepare import Prepared

MOST = 12  # labels named
OF_LABELS = {"empty": "have no text", "unlabelled": "have no label", "cut": "are longer than a row: cut"}
OF_TAGS = {"empty": "have no words", "unlabelled": "have no tags", "cut": "words are longer than a row: cut"}
OF_TEXTS = {"unlabelled": "have no target", "cut": "have a source longer than its part: cut"}
OF_TEXTS |= {"empty": "have nothing to read, or nothing to write"}


def told(prepared: Prepared) -> list[str]:
    """Return what there is to know of all splits of a task's data before training: those that are read, then the others."""
    read = [line for split, (report,) in prepared.reports.items() for line in lines(split, report)]
    return read + unread(prepared.survey, prepared.tables)


def lines(split: str, report: dict[str, Any]) -> list[str]:
    """Return what there is to know of a split from its table's report: a line of counts, then one for each oddity."""
    real = [report[name] for name in ("source_real", "real") if name in report]
    shares = " and ".join(f"{share:.1%}" for share in real)
    rows = f"{report['rows']:,} rows of {report['per_row']:.1f}, {shares} real tokens"
    said = [f"{split}: {report['examples']:,} examples in {rows}"]
    tags, texts = "begun_inside" in report, "cut_targets" in report  # which other tasks do not count
    words = OF_TAGS if tags else OF_TEXTS if texts else OF_LABELS
    out = report["read"] - report["examples"] - report["unlabelled"]  # all that are empty, or none
    oddities = {
        "empty": f"{words['empty']} ({'left out' if out else 'kept'})",
        "unlabelled": f"{words['unlabelled']} (left out)",
        "cut": words["cut"],
        "cut_targets": "have a target longer than its part: cut",
        "split": "are longer than a row: read in windows that overlap",
        "begun_inside": "entities begin with an I- tag: read as B-",
    }
    said += [f"{split}: {report[name]:,} {what}" for name, what in oddities.items() if report.get(name)]
    labels = sorted(report.get("labels", {}).items(), key=lambda pair: -pair[1])
    if labels:
        more = f" and {len(labels) - MOST} more" if len(labels) > MOST else ""
        said.append(f"{split}: " + ", ".join(f"{name} {count:,}" for name, count in labels[:MOST]) + more)
    if tags and split == "train" and labels and all(name.isdecimal() for name, _ in labels):
        said.append(f"{split}: all tags are numbers, so no entities are marked: name them with objective.labels")
    return said + _unseen(split, report.get("unseen", {}))


def unread(survey: Survey, read: Collection[Split]) -> list[str]:
    """Return what is odd about the labels of the splits that are not `read` now, such as that of a test."""
    said, trained = [], survey.counts["train"]
    for split in (split for split in survey.counts if split not in read):
        untold, counts = survey.untold.get(split, 0), survey.counts[split]
        if untold and counts:
            said.append(f"{split}: {untold:,} have no label: mend or remove them before it is scored")
        elif untold:
            hidden = "as where test labels are hidden: it cannot be scored"
            said.append(f"{split}: none of {untold:,} has a label, {hidden}")
        said += _unseen(split, {name: count for name, count in counts.items() if name not in trained})
    return said


def _unseen(split: str, counts: dict[str, int]) -> list[str]:
    names = ", ".join(f"{name} ({count:,})" for name, count in counts.items())
    return [f"{split}: never met in training, so never told right but by chance: {names}"] if counts else []
