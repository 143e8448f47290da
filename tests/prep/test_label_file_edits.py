"""A label file that people keep changes in its labels alone, and only to what is read back."""

import codecs
import csv
import io
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.errors import InvalidInput
from headrace.prep.label_file_edits import FileChange, write_changes
from headrace.prep.label_settings import LabelFile
from headrace.prep.labels import read_label_file


def changed(
    path: Path, body: bytes | None, *, added: dict[str, str], replaced: dict[str, str], encoding: str = "utf-8"
) -> bytes:
    if body is not None:
        path.write_bytes(body)
    settings = LabelFile(path=path.name, encoding=(encoding,))
    there = {} if body is None else read_label_file(settings, "", path.parent)
    write_changes([FileChange(path=path, added=added, replaced=replaced)], settings)
    assert read_label_file(settings, "", path.parent) == there | replaced | added
    return path.read_bytes()


# Before and after: "new" gets the label good, and "old" has bad replaced by good.
CHANGED: dict[str, tuple[str, bytes, bytes]] = {
    "a note with a carriage return in quotes": (
        "labels.csv",
        b'document_id,label,note\na,bad,"first\rsecond"\nold,bad,"first\rsecond"\n',
        b'document_id,label,note\na,bad,"first\rsecond"\nold,good,"first\rsecond"\nnew,good,\n',
    ),
    "Excel's mark and line ends": (
        "labels.csv",
        b"\xef\xbb\xbfdocument_id;label\r\na;bad\r\nold;bad\r\n",
        b"\xef\xbb\xbfdocument_id;label\r\na;bad\r\nold;good\r\nnew;good\r\n",
    ),
    "lines that end with carriage returns alone": (
        "labels.csv",
        b"document_id,label\ra,bad\rold,bad",
        b"document_id,label\ra,bad\rold,good\rnew,good\r",
    ),
    "empty lines, needless quotes and rows over several lines": (
        "labels.csv",
        b'\n"label","note",document_id\n\nbad,"one\n""two""","a"\n"bad",x,old\n\n',
        b'\n"label","note",document_id\n\nbad,"one\n""two""","a"\ngood,x,old\n\ngood,,new\n',
    ),
    "tabs by the file's name": (
        "labels.tsv",
        b"document_id\tlabel\nold\tbad\n",
        b"document_id\tlabel\nold\tgood\nnew\tgood\n",
    ),
    "an empty file": ("labels.csv", b"", b"document_id,label\nnew,good\n"),
    "numbers in JSON as they were written": (
        "labels.jsonl",
        b'{"n":1.10,"label" : "bad","f":1e400,"i":Infinity, "d":"x","document_id":"old","label2":{"label":"bad"}}\r\n',
        b'{"n":1.10,"label" : "good","f":1e400,"i":Infinity, "d":"x","document_id":"old","label2":{"label":"bad"}}\r\n'
        b'{"document_id": "new", "label": "good"}\r\n',
    ),
    "JSON with a mark, a blank line and no last line end": (
        "labels.jsonl",
        b'\xef\xbb\xbf {"label":"bad", "document_id":"old", "nan":NaN}\n\n{"document_id":"a","label":"bad"}',
        b'\xef\xbb\xbf {"label":"good", "document_id":"old", "nan":NaN}\n\n{"document_id":"a","label":"bad"}\n'
        b'{"document_id": "new", "label": "good"}\n',
    ),
}


@pytest.mark.parametrize("phrase", CHANGED)
def test_every_byte_but_that_of_changed_labels_stays(phrase: str, tmp_path: Path) -> None:
    name, before, after = CHANGED[phrase]

    replaced = {"old": "good"} if b"old" in before else {}
    assert changed(tmp_path / name, before, added={"new": "good"}, replaced=replaced) == after


@pytest.mark.parametrize("mark", [codecs.BOM_UTF16_BE, codecs.BOM_UTF16_LE])
def test_a_file_in_utf_16_keeps_its_mark_and_its_order_of_bytes(mark: bytes, tmp_path: Path) -> None:
    codec = "utf-16-be" if mark == codecs.BOM_UTF16_BE else "utf-16-le"
    before = mark + "document_id,label\nä,bad\n".encode(codec)

    after = changed(tmp_path / "labels.csv", before, added={"水": "good"}, replaced={}, encoding="utf-16")

    assert after == before + "水,good\n".encode(codec)


@given(
    rows=st.lists(
        st.tuples(st.text('ab\r\n",; \u2028', min_size=1), st.text('\r\n" ,x', min_size=1)),
        min_size=1,
        unique_by=lambda row: row[0],
    ),
    line_end=st.sampled_from(["\n", "\r\n"]),
    quoting=st.sampled_from([csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC]),
    data=st.data(),
)
def test_rows_that_stay_keep_their_bytes_whatever_is_in_them(
    rows: list[tuple[str, str]],
    line_end: str,
    quoting: int,
    data: st.DataObject,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    def written(*some: tuple[str, ...]) -> bytes:
        body = io.StringIO(newline="")
        csv.writer(body, lineterminator=line_end, quoting=quoting).writerows(some)  # pyright: ignore[reportArgumentType]
        return body.getvalue().encode()

    replaced = {row[0]: f"{row[1]}\r!" for row in data.draw(st.lists(st.sampled_from(rows), unique=True))}
    kept = [row for row in rows if row[0] not in replaced]
    path = tmp_path_factory.mktemp("labels") / "labels.csv"

    after = changed(path, written(("document_id", "label"), *rows), added={"new\r": '\n"new\r\n'}, replaced=replaced)

    for row in kept:
        assert written(row) in after


def test_a_label_that_would_not_be_read_back_leaves_all_files_as_they_were(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("one.csv", "two.csv")]
    for path in paths:
        path.write_text("document_id,label\na,bad\n")
    settings = LabelFile(path="one.csv")
    fine = FileChange(path=paths[0], added={"new": "good"}, replaced={"a": "good"})
    # In a CSV an empty cell is no text.
    damaging = FileChange(path=paths[1], added={"new": ""}, replaced={})

    with pytest.raises(InvalidInput, match=r"two\.csv is left as it was, since .* the label \('new', ''\)"):
        write_changes([fine, damaging], settings)

    assert [path.read_text() for path in sorted(tmp_path.iterdir())] == ["document_id,label\na,bad\n"] * 2


@pytest.mark.parametrize(
    ("encoding", "label", "told"),
    [
        ("latin-1", "水", "latin-1, which has no '水': save it in UTF-8, and set labels.file.encoding."),
        ("utf-8", "\ud800", r"utf-8, which has no '\\ud800': correct it in the export."),
    ],
)
def test_a_label_that_the_files_encoding_lacks_is_refused(encoding: str, label: str, told: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=told):
        changed(tmp_path / "labels.csv", b"", added={"new": label}, replaced={}, encoding=encoding)


def test_a_groups_file_stays_the_groups(tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    path.write_bytes(b"document_id,label\n")
    path.chmod(0o664)

    changed(path, None, added={"new": "good"}, replaced={})

    assert stat.S_IMODE(path.stat().st_mode) == 0o664
