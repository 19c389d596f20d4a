import dataclasses
import gzip
import json
import time

import pytest

from research.data import hub
from research.data.sources import Source, check, documents, fingerprint
from research.types import UserError

LINES = ["one line", "another, with ümlauts", "a third"]


def found(path, split="train", **fields) -> list[str]:
    return list(documents(Source(path=str(path), **{"holdout": 0.0} | fields), split))


def refused(path, split="train", **fields) -> str:
    with pytest.raises(UserError) as caught:
        found(path, split, **fields)
    message = str(caught.value)
    assert "\n" not in message
    return message


def write(path, texts):
    """Write texts as the kind of file that its suffix names."""
    import pyarrow
    import pyarrow.parquet

    kind = path.name.removesuffix(".gz").rsplit(".", 1)[1]
    if kind == "parquet":
        pyarrow.parquet.write_table(pyarrow.table({"label": [1] * len(texts), "text": texts}), path)
        return path
    content = {
        "txt": "".join(f"{text}\n" for text in texts),
        "jsonl": "".join(json.dumps({"label": 1, "text": text}, ensure_ascii=False) + "\n" for text in texts),
        "csv": "label,text\r\n" + "".join(f'1,"{text}"\r\n' for text in texts),
    }[kind].encode()
    path.write_bytes(gzip.compress(content) if path.name.endswith(".gz") else content)
    return path


@pytest.mark.parametrize("suffix", ["txt", "txt.gz", "jsonl", "jsonl.gz", "csv", "csv.gz", "parquet"])
def test_every_kind_of_file_gives_the_same_documents(tmp_path, suffix):
    assert found(write(tmp_path / f"a.{suffix}", LINES)) == LINES


@pytest.mark.parametrize(
    "boundary, expected",
    [
        ("line", ["= A =", "a one", "a two", "= B =", "b one"]),
        ("blank", ["= A =\na one\n", "a two\n", "= B =\nb one\n"]),
        ("file", ["\n= A =\na one\n \na two\n\n= B =\nb one\n"]),
        ("^= .* =$", ["\n", "= A =\na one\n \na two\n\n", "= B =\nb one\n"][1:]),
    ],
)
def test_boundaries_of_text(tmp_path, boundary, expected):
    path = tmp_path / "a.txt"
    path.write_bytes(b"\xef\xbb\xbf\r\n= A =\r\na one\n \na two\n\n= B =\nb one\n")
    assert found(path, boundary=boundary) == expected


def test_records_are_documents_or_the_lines_of_one_text(tmp_path):
    path = write(tmp_path / "a.jsonl", ["= A =\n", "first\nsecond", "", "= B =", "third"])
    assert found(path) == found(path, boundary="file") == ["= A =", "first\nsecond", "= B =", "third"]
    assert found(path, boundary="blank") == ["= A =\nfirst\nsecond", "= B =\nthird"]
    assert found(path, boundary="^= .* =$") == ["= A =\nfirst\nsecond\n", "= B =\nthird"]


def test_a_null_text_is_no_document_and_long_csv_fields_are_read(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": null}\n\n{"text": "b"}\n')
    assert found(tmp_path / "a.jsonl") == ["b"]
    assert found(write(tmp_path / "a.csv", ["x" * 200_000, "two\nlines"])) == ["x" * 200_000, "two\nlines"]


def test_a_folder_has_the_splits_that_its_files_are_named_after(tmp_path):
    for name in ["train-0.txt", "train-1.txt", "dev.jsonl", "test.txt", "test_2017.txt", "trainer.txt", ".val.txt"]:
        write(tmp_path / name, [f"of {name}"])
    (tmp_path / "README.md").write_text("not data")
    assert found(tmp_path) == ["of train-0.txt", "of train-1.txt"]
    assert found(tmp_path, "validation", holdout=0.5) == ["of dev.jsonl"]
    assert found(tmp_path, "test") == ["of test.txt"]
    assert found(tmp_path, "test", test="test_2017") == ["of test_2017.txt"]


def test_subfolders_may_be_named_after_splits(tmp_path):
    for folder in ("train", "valid"):
        (tmp_path / folder).mkdir()
        write(tmp_path / folder / "0.txt", [folder])
    assert found(tmp_path) == ["train"] and found(tmp_path, "validation") == ["valid"]


def test_files_of_no_split_are_pooled_and_held_out_by_document(tmp_path):
    write(tmp_path / "a.txt", [f"a {i}" for i in range(300)])
    write(tmp_path / "b.txt", [f"b {i}" for i in range(300)] + ["a 1"])
    train, validation = (found(tmp_path, split, holdout=0.2) for split in ("train", "validation"))
    assert sorted(train + validation) == sorted([f"{x} {i}" for x in "ab" for i in range(300)] + ["a 1"])
    assert not set(train) & set(validation)
    assert 80 <= len(validation) <= 160  # 4 standard deviations around 120
    assert train == found(tmp_path, holdout=0.2)
    more = found(tmp_path, "validation", holdout=0.3)
    assert set(validation) < set(more)  # a larger share keeps what was held out


@pytest.mark.parametrize("boundary", ["file", "line"])
def test_the_tail_is_held_out_in_order(tmp_path, boundary):
    path = write(tmp_path / "a.txt", ["0123456789"] * 10)
    whole = "".join(found(path, boundary=boundary))
    fields = {"boundary": boundary, "holdout": 0.25, "holdout_by": "tail"}
    train, validation = (found(path, split, **fields) for split in ("train", "validation"))
    assert "".join(train) == whole[: int(len(whole) * 0.75)] and "".join(train + validation) == whole


def test_a_limit_stops_early(tmp_path):
    path = write(tmp_path / "a.txt", ["x" * 1000] * 100)
    assert len(found(path, limit=0.01)) == 10 and len(found(path, limit=0.0101)) == 11


def test_documents_stream(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"good\n" * 100_000 + b"b\xffd\n")
    stream = documents(Source(path=str(path), holdout=0.0), "train")
    assert next(stream) == "good"  # the broken line has not been met


def test_errors_name_the_file_the_line_and_the_remedy(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "wikitext").mkdir()
    write(tmp_path / "corpus.txt", LINES)
    assert refused("corpsu.txt") == "corpsu.txt: no such file or folder: did you mean corpus.txt?"
    assert "did you mean" not in refused("/nowhere/at-all.txt")
    assert "no file to read in this folder" in refused("wikitext")  # a local folder comes before a hub id

    (tmp_path / "empty.txt").write_text("")
    assert "empty.txt: the file is empty" in refused("empty.txt")
    (tmp_path / "blank.txt").write_text(" \n\n")
    assert "no documents in the train split" in refused("blank.txt")

    (tmp_path / "latin.txt").write_bytes("gut\nschön\n".encode("latin1"))
    assert refused("latin.txt").startswith("latin.txt:2: not UTF-8 (byte 0xf6): convert")
    (tmp_path / "latin.jsonl").write_bytes(b'{"text": "a"}\n\n{"text": "\xf6"}\n')
    assert refused("latin.jsonl").startswith("latin.jsonl:3: not UTF-8")

    (tmp_path / "broken.jsonl").write_text('{"text": "a"}\n{"text": "b"\n')
    assert refused("broken.jsonl").startswith("broken.jsonl:2: not a JSON object (Expecting ',' delimiter")
    (tmp_path / "list.jsonl").write_text('{"text": "a"}\n["b"]\n')
    assert refused("list.jsonl").startswith("list.jsonl:2: not a JSON object but a list")
    (tmp_path / "number.jsonl").write_text('{"text": 3}\n')
    assert "number.jsonl:1: column 'text' holds an int" in refused("number.jsonl")

    for suffix, where in (("jsonl", ":1"), ("csv", ":2"), ("parquet", ": row 1")):
        write(tmp_path / f"a.{suffix}", LINES)
        expected = f"a.{suffix}{where}: no column 'body', only 'label', 'text': set the source's column"
        assert refused(f"a.{suffix}", column="body") == expected
    (tmp_path / "short.csv").write_text("label,text\n1,a\n2\n")
    assert refused("short.csv").startswith("short.csv:3: the line ends before column 'text'")

    (tmp_path / "a.docx").write_text("a")
    assert "a.docx: unknown kind of file; known are .txt" in refused("a.docx")
    (tmp_path / "cut.txt.gz").write_bytes(gzip.compress(b"text\n" * 9999)[:-20])
    assert "cut.txt.gz: not a whole gzip file" in refused("cut.txt.gz")
    (tmp_path / "cut.parquet").write_bytes((tmp_path / "a.parquet").read_bytes()[:-20])
    assert "cut.parquet: not a whole Parquet file" in refused("cut.parquet")


def test_errors_of_splits_and_fields(tmp_path):
    path = write(tmp_path / "a.txt", LINES)
    assert "no files for the test split" in refused(path, "test", holdout=0.1)
    assert "or set the source's holdout" in refused(path, "validation")
    assert "slices a hub split" in refused(tmp_path, train="train[:10%]")
    assert "boundary '(' is not line, blank, file or a regular expression" in refused(path, boundary="(")
    for field, value in (("holdout", 1.0), ("holdout", -0.1), ("limit", -1.0)):
        with pytest.raises(UserError, match=field):
            check(Source(path=str(path), **{field: value}))


def test_fingerprints_follow_contents_and_fields(tmp_path):
    (tmp_path / "x").mkdir()
    a, b = (write(tmp_path / name, LINES) for name in ("a.txt", "x/b.txt"))
    first = fingerprint(Source(path=str(a)), "train")
    assert fingerprint(Source(path=str(b), weight=3.0), "train") == first
    others = [
        fingerprint(Source(path=str(a)), "validation"),
        *(
            fingerprint(dataclasses.replace(Source(path=str(a)), **change), "train")
            for change in (
                {"boundary": "blank"}, {"column": "b"}, {"holdout": 0.1}, {"limit": 1.0}, {"holdout_by": "tail"},
            )  # fmt: skip
        ),
    ]
    a.write_text("changed")
    assert len({first, *others, fingerprint(Source(path=str(a)), "train")}) == 8


@pytest.fixture
def wikitext(monkeypatch):
    """A hub whose only data set is one of records in memory; returns the calls of load_dataset."""
    import datasets

    calls = []
    records = datasets.Dataset.from_dict({"id": [1, 2, 3, 4], "text": [" = A = \n", " first \n", "", " = B = \n"]})

    def load_dataset(path, name=None, *, split):
        calls.append((path, name, split))
        if path != "wikitext":
            raise FileNotFoundError(f"Couldn't find any data file at {path}.\nLong story.")
        if not split.startswith("train"):
            raise ValueError(f'Unknown split "{split}". Should be one of [\'train\'].')
        return records

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    monkeypatch.setattr(hub, "answers", lambda address: True)
    return calls


def test_a_hub_id_is_loaded_with_its_configuration_and_slice(wikitext, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fields = {"name": "wikitext-2-raw-v1", "train": "train[:10%]", "boundary": "^ = [^=].* = $"}
    assert found("wikitext", **fields) == [" = A = \n first \n", " = B = "]
    assert wikitext == [("wikitext", "wikitext-2-raw-v1", "train[:10%]")]
    assert len(fingerprint(Source(path="wikitext", **fields), "train")) == 32


def test_a_hub_validation_can_be_held_out(wikitext, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fields = {"validation": "", "holdout": 0.4, "holdout_by": "tail"}
    parts = [found("wikitext", split, **fields) for split in ("train", "validation")]
    assert "".join(parts[0] + parts[1]) == " = A =  first  = B = " and all(parts)


def test_a_hub_id_without_a_validation_split_has_one_held_out(wikitext, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    hub.lacks.cache_clear()
    fields = {"name": "bare", "holdout": 0.4, "holdout_by": "tail"}
    parts = [found("wikitext", split, **fields) for split in ("train", "validation", "train")]
    assert "".join(parts[0] + parts[1]) == " = A =  first  = B = " and parts[0] == parts[2] and all(parts)
    told = [found("wikitext", split, **fields, validation="") for split in ("train", "validation")]
    assert told == parts[:2] and wikitext.count(("wikitext", "bare", "validation")) == 1
    said = "wikitext/bare has no validation split: 40.0% of train is held out for it (holdout)\n"
    assert capsys.readouterr().err == said
    source = Source("wikitext", **fields)
    assert fingerprint(source, "validation") == fingerprint(Source("wikitext", **fields, validation=""), "validation")
    for named in ({"validation": "dev"}, {"holdout": 0.0}):  # asked for by its name, or not to be made
        assert "Unknown split" in refused("wikitext", "validation", **fields | named)
    assert "Unknown split" in refused("wikitext", "test", **fields)
    held = [found("wikitext", split, **fields, holdout_test=0.2) for split in ("train", "validation", "test")]
    assert "".join(sum(held, [])).split() == "".join(parts[0] + parts[1]).split() and all(held)


def test_hub_errors_are_one_line(wikitext, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    message = refused("wikitext", "validation")
    assert message.startswith("wikitext (validation): Unknown split")
    assert "set the source's train, validation" in message
    assert refused("someone/nothing").startswith("someone/nothing (train): Couldn't find any data file")
    assert "no column 'body', only 'id', 'text'" in refused("wikitext", column="body")


def test_without_a_network_a_hub_id_fails_within_seconds(tmp_path, monkeypatch):
    import datasets

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    monkeypatch.setattr(hub, "answers", lambda address: False)
    before, start = datasets.config.HF_HUB_OFFLINE, time.perf_counter()
    message = refused("wikitext", name="wikitext-2-raw-v1")
    assert time.perf_counter() - start < 5
    assert "the hub cannot be reached: fetch the files elsewhere" in message
    assert datasets.config.HF_HUB_OFFLINE == before


def test_an_unreachable_address_does_not_answer():
    assert not hub.answers("http://127.0.0.1:9/api")
    assert not hub.answers("no address")


def test_wikitext2_has_its_articles(data_folder):
    source = Source(path=str(data_folder / "wikitext2"), boundary=r"^ = [^=].* = $")
    articles = list(documents(source, "validation"))
    assert len(articles) == 60 and articles[0].startswith(" = Homarus gammarus = \n")
    words = sum(len(line.split()) + 1 for article in articles for line in article.splitlines())
    assert words == 217_646 - 1  # as published, but for the blank line before the first title
    assert len(list(documents(source, "test"))) == 62  # two lines inside articles look like titles


def test_shakespeare_is_split_as_nanogpt_splits_it(data_folder):
    source = Source(str(data_folder / "tinyshakespeare/all.txt"), boundary="file", holdout=0.1, holdout_by="tail")
    assert [len(text) for text in documents(source, "train")] == [1_003_854]
    assert [len(text) for text in documents(source, "validation")] == [111_540]
