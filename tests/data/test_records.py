"""Records: every kind of file gives the same ones, broken lines are said and passed, and splits share nothing."""

import gzip
import itertools
import json
import pathlib
import re

import pytest

from research.data import hub
from research.data.features import named
from research.data.records import fingerprint, records, rows_of_file
from research.data.sources import Source, check, documents
from research.data.sources import fingerprint as documents_fingerprint
from research.types import UserError

FIELDS = [{"text": "one, two", "label": "a"}, {"text": "ümlaut", "label": "b"}, {"text": "third", "label": "a"}]


def write(path, fields):
    """Write records as the kind of file that its suffix names."""
    import pyarrow
    import pyarrow.parquet

    kind = path.name.removesuffix(".gz").rsplit(".", 1)[1]
    if kind == "parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(fields), path)
        return path
    if kind == "csv":
        content = "text,label\n" + "".join(f'"{each["text"]}",{each["label"]}\n' for each in fields)
    else:
        content = "".join(json.dumps(each, ensure_ascii=False) + "\n" for each in fields)
    path.write_bytes(gzip.compress(content.encode()) if path.name.endswith(".gz") else content.encode())
    return path


def found(path, split="train", **options):
    return list(records(Source(str(path), **{"holdout": 0.0} | options), split))


@pytest.mark.parametrize("suffix", ["jsonl", "jsonl.gz", "csv", "csv.gz", "parquet"])
def test_every_kind_of_file_gives_the_same_records(tmp_path, suffix):
    path = write(tmp_path / f"a.{suffix}", FIELDS)
    rows = found(path)
    assert [row.fields for row in rows] == FIELDS
    first = 2 if "csv" in suffix else 1
    assert [row.number for row in rows] == [first, first + 1, first + 2]
    assert rows[1].place == (f"{path}: row 2" if suffix == "parquet" else f"{path}:{first + 1}")


def test_a_line_of_text_is_a_record(tmp_path):
    (tmp_path / "a.txt").write_text("one\n\nthree\r\n")
    assert [row.fields["text"] for row in rows_of_file(tmp_path / "a.txt")] == ["one", "", "three"]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.jsonl", b'{"text": 1}\n{"text"\n[1]\n\n{"text": "\xff"}\n{"text": 2}\n',
         {2: "not a JSON object (", 3: "not a JSON object but a list", 5: "not UTF-8 (byte 0xff)"}),
        ("a.csv", b'text,label\na,b\nshort\nx,y,z\n\xff,b\n"two\nli\xff",b\nlast,b\n',
         {3: "the line ends before column 'label'", 4: "1 more than the 2 fields", 5: "not UTF-8", 6: "not UTF-8"}),
        ("a.csv", b'text,label\n\n"a\nb",c\n"open,1\n\nx,"2"\n"a" b,3\ny,4\n"open\nshort\nlast,5\n',
         {5: "not CSV (',' expected after '\"'): mend its quotes", 8: "not CSV", 10: "not CSV (unexpected end of data)",
          11: "the line ends before"}),
        ("a.txt", b"good\n\xff\ngood\n", {2: "not UTF-8"}),
    ],
)  # fmt: skip
def test_a_broken_line_is_said_and_passed(tmp_path, name, content, said):
    path = tmp_path / name
    path.write_bytes(content)
    rows = list(rows_of_file(path))
    wrong = {row.number: row.error for row in rows if row.error}
    assert wrong.keys() == said.keys() and len(rows) > len(said)
    for number, message in said.items():
        assert message in wrong[number] and "\n" not in wrong[number]
    assert not rows[0].error and not rows[-1].error
    with pytest.raises(UserError, match=re.escape(said[min(said)])):
        found(path)


def test_a_quote_that_is_not_closed_takes_no_other_record_with_it(tmp_path):
    path = tmp_path / "a.csv"
    rows = [f"row {i}" for i in range(5)]
    for broken in ('"hello', '"hello" dear', 'hello "dear', '"""hello'):
        for at in range(6):
            path.write_text("\n".join(["text", *rows[:at], broken, *rows[at:]]) + "\n")
            found = list(rows_of_file(path))
            assert [row.number for row in found] == list(range(2, 8))
            assert [row.fields["text"] for i, row in enumerate(found) if i != at] == rows
            assert bool(found[at].error) == (broken != 'hello "dear')  # which is what it says
            assert not found[at].error or found[at].error.startswith(f"{path}:{at + 2}: not CSV (")
    path.write_text('text\n"a\n\nb"\n\r\nc\n')
    assert [(row.number, row.fields["text"]) for row in rows_of_file(path)] == [(2, "a\n\nb"), (6, "c")]
    path.write_text('"text\na\n')
    with pytest.raises(UserError, match="a.csv:1: not CSV .*: mend the header"):
        list(rows_of_file(path))


def test_a_quote_that_is_never_closed_holds_no_more_than_the_longest_field(tmp_path, monkeypatch):
    monkeypatch.setattr("research.data.files.LONGEST_FIELD", 30)
    path = tmp_path / "a.csv"
    path.write_text("\n".join(["text", '"begun', *(f"row {i}" for i in range(50))]) + "\n")
    broken, *rows = rows_of_file(path)
    assert str(broken.error).startswith(f"{path}:2: not CSV (field larger than field limit (30)): mend its quotes")
    assert [row.fields["text"] for row in rows] == [f"row {i}" for i in range(50)]


def test_records_stream_and_unknown_files_are_refused(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text": "good"}\n' * 10_000 + b"broken")
    assert next(rows_of_file(path)).fields == {"text": "good"}
    assert next(records(Source(str(path), holdout=0.0), "train")).number == 1
    with pytest.raises(UserError, match="unknown kind of file"):
        list(rows_of_file(tmp_path / "a.docx"))
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(UserError, match="no records in the train split"):
        found(tmp_path / "empty.jsonl")


@pytest.mark.parametrize("by", ["document", "tail"])
def test_splits_are_a_partition(tmp_path, by):
    fields = [{"text": f"t{i % 450}", "label": i % 2} for i in range(900)]  # every record twice
    path = write(tmp_path / "a.jsonl", fields)
    options = {"holdout": 0.2, "holdout_test": 0.3, "holdout_by": by}
    parts = {split: [row.fields for row in found(path, split, **options)] for split in ("train", "validation", "test")}
    key = json.dumps
    assert sorted(map(key, itertools.chain(*parts.values()))) == sorted(map(key, fields))
    assert 180 - 60 < len(parts["validation"]) < 180 + 60 and 270 - 70 < len(parts["test"]) < 270 + 70
    if by == "document":
        for a, b in itertools.combinations(parts.values(), 2):
            assert not set(map(key, a)) & set(map(key, b))
        other = [row.fields for row in found(path, "test", **options, holdout_seed=1)]
        assert set(map(key, other)) != set(map(key, parts["test"]))
    else:
        assert parts["train"] + parts["validation"] + parts["test"] == fields
        assert list(map(len, parts.values())) == [450, 180, 270]


def test_documents_can_be_held_out_for_a_test_too(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("".join(f"line {i}\n" for i in range(500)))
    source = Source(str(path), holdout=0.1, holdout_test=0.2)
    parts = [list(documents(source, split)) for split in ("train", "validation", "test")]
    assert sorted(sum(parts, [])) == sorted(f"line {i}" for i in range(500))
    assert parts[1] == list(documents(Source(str(path), holdout=0.1), "validation"))  # as without a test split
    assert 60 < len(parts[2]) < 140
    tail = Source(str(path), boundary="file", holdout=0.1, holdout_test=0.2, holdout_by="tail")
    assert "".join("".join(documents(tail, split)) for split in ("train", "validation", "test")) == path.read_text()


def test_a_split_with_files_of_its_own_is_not_held_out(tmp_path):
    write(tmp_path / "train.jsonl", FIELDS * 50)
    write(tmp_path / "validation.jsonl", FIELDS)
    options = {"holdout": 0.5, "holdout_test": 0.4}
    assert len(found(tmp_path, "validation", **options)) == 3
    train, test = (found(tmp_path, split, **options) for split in ("train", "test"))
    assert len(train) + len(test) == 150
    write(tmp_path / "test.jsonl", FIELDS)
    assert len(found(tmp_path, "train", **options)) == 150 and len(found(tmp_path, "test", **options)) == 3


def test_errors_of_fields(tmp_path):
    path = write(tmp_path / "a.jsonl", FIELDS)
    with pytest.raises(UserError, match="or set the source's holdout_test"):
        found(path, "test")
    for options in ({"holdout_test": 1.0}, {"holdout": 0.5, "holdout_test": 0.5}, {"holdout_seed": -1}):
        with pytest.raises(UserError, match="holdout"):
            check(Source(str(path), **options))


def test_limits_and_fingerprints(tmp_path):
    path = write(tmp_path / "a.jsonl", [{"text": "x" * 999, "tags": ["y"]}] * 100)
    assert len(found(path, limit=0.01)) == 10
    plain = Source(str(path))
    first = fingerprint(plain, "train")
    assert fingerprint(Source(str(path), column="other", boundary="blank", weight=2.0), "train") == first
    others = [Source(str(path), holdout=0.1), Source(str(path), holdout_test=0.1), Source(str(path), limit=1.0)]
    others += [Source(str(path), holdout_seed=1), Source(str(path), holdout_by="tail")]
    assert len({first, fingerprint(plain, "validation"), *(fingerprint(each, "train") for each in others)}) == 7
    write(path, FIELDS)
    assert fingerprint(plain, "train") != first


def test_fingerprints_of_documents_are_those_of_before(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("a\nb\n")
    source = Source(str(path))
    assert documents_fingerprint(source, "train") == "0f06b7c15aaa8d2ce293f48e57210054"
    assert documents_fingerprint(source, "validation") == "45c2697220a464a4d2a3f7fa4d87a2ad"
    assert documents_fingerprint(Source(str(path), holdout=0.0), "train") == "c8f06ba7d1e59a5559160e071aaaaa46"


def test_class_labels_are_spelled_out(tmp_path, monkeypatch):
    import datasets

    kind = datasets.ClassLabel(names=["neg", "pos"])
    features = datasets.Features(
        {
            "label": kind,
            "tags": datasets.Sequence(kind),
            "deep": {"x": datasets.List({"y": kind})},
            "text": datasets.Value("string"),
        }
    )
    rows = [
        {"label": 1, "tags": [0, 1, -1], "deep": {"x": [{"y": 0}, {"y": 1}]}, "text": "a"},
        {"label": -1, "tags": [], "deep": {"x": []}, "text": None},
        {"label": None, "tags": None, "deep": None, "text": ""},
    ]
    data = datasets.Dataset.from_list(rows, features=features)
    spelled = [named(data.features, row) for row in data]
    assert spelled[0] == rows[0] | {
        "label": "pos",
        "tags": ["neg", "pos", -1],
        "deep": {"x": [{"y": "neg"}, {"y": "pos"}]},
    }
    assert spelled[1]["label"] == -1 and spelled[2]["label"] is None and spelled[2]["tags"] is None

    monkeypatch.setattr(hub, "load", lambda path, name, split: data)
    monkeypatch.chdir(tmp_path)
    first = next(records(Source("someone/set"), "train"))
    assert first.place == "someone/set: train record 0" and first.fields == spelled[0]
    data.to_parquet(tmp_path / "a.parquet")
    assert found(tmp_path / "a.parquet")[0].fields["label"] == "pos"


def test_published_sets_have_their_rows(data_folder):
    assert sum(1 for _ in records(Source(str(data_folder / "sst2")), "train")) == 6920
    row = next(records(Source(str(data_folder / "conll2003")), "test"))
    assert row.fields["tokens"][0] == "SOCCER" and pathlib.Path(row.place).name == "test.jsonl.gz:1"


def test_a_smaller_share_of_the_training_records_is_part_of_a_larger_one(tmp_path):
    path = write(tmp_path / "a.jsonl", [{"text": f"text {n}", "label": "ab"[n % 2]} for n in range(2000)])
    sets = {share: {row.number for row in found(path, share=share)} for share in (0.1, 0.5, 1.0)}
    assert sets[0.1] < sets[0.5] < sets[1.0] and len(sets[1.0]) == 2000
    assert 150 < len(sets[0.1]) < 250 and 900 < len(sets[0.5]) < 1100
    other = {row.number for row in found(path, share=0.1, holdout_seed=1)}
    assert other != sets[0.1] and 150 < len(other) < 250
    held = Source(str(path), holdout=0.2, share=0.1)
    assert list(records(held, "validation")) == list(records(Source(str(path), holdout=0.2), "validation"))
    assert fingerprint(held, "validation") == fingerprint(Source(str(path), holdout=0.2), "validation")
    assert len({fingerprint(Source(str(path), share=share), "train") for share in (0.1, 0.5, 1.0)}) == 3
    with pytest.raises(UserError, match="source share is 0.0: it must be above 0 and at most 1"):
        check(Source(str(path), share=0.0))
