import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from headrace.errors import InvalidInput, QuarantineExceeded
from headrace.handoff.schemas import check_schema
from headrace.prep.example_forms import ExamplePrompt
from headrace.prep.normalization import Normalization
from headrace.prep.sources import read_shard, shard_files
from tests.prep.builders import gloss, make_corpus, write_jsonl

ANYTHING = 1.0


def quarantined(home: Path, **changes: Any) -> list[tuple[str, int, str]]:
    shard = read_shard(make_corpus(quarantine_share_max=ANYTHING, **changes), "shard-00", home)
    return [(row["source_file"], row["source_line"], row["reason"]) for row in shard.quarantine.to_pylist()]


def write(home: Path, name: str, body: bytes) -> Path:
    path = home / "files" / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(body)
    return path


def test_one_table_comes_out_of_json_lines_csv_parquet_and_compressed_files(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "files/a.jsonl", [gloss(1, examples=["one", "two"])])
    write(
        tmp_path,
        "b.csv",
        b'term,category,gloss,examples\r\nterm 2,noun,"a gloss, quoted\nover two lines",\r\nx,noun,y z,\r\n',
    )
    pq.write_table(pa.Table.from_pylist([gloss(3)]), tmp_path / "files/c.parquet")
    write(tmp_path, "d.jsonl.gz", gzip.compress(b'{"term": "term 4", "category": null, "gloss": "zipped"}\n'))
    write(tmp_path, "e.tsv", "\ufeffterm\tcategory\tgloss\texamples\nmühle\tnoun\tein Rad\tein Satz\n".encode())

    shard = read_shard(make_corpus(), "shard-00", tmp_path)

    check_schema("raw_documents", shard.documents)
    rows = [
        (row["source_file"], row["source_line"], row["term"], row["examples"]) for row in shard.documents.to_pylist()
    ]
    assert rows == [
        ("files/a.jsonl", 1, "term 1", ["one", "two"]),
        ("files/b.csv", 2, "term 2", []),
        ("files/b.csv", 4, "x", []),
        ("files/c.parquet", 1, "term 3", []),
        ("files/d.jsonl.gz", 1, "term 4", []),
        ("files/e.tsv", 2, "mühle", ["ein Satz"]),
    ]
    assert shard.quarantine.num_rows == 0


LINES: dict[str, tuple[bytes, str]] = {
    "torn JSON": (b'{"term": "t", "gloss": "te', "not JSON: "),
    "a list": (b"[1, 2]", "not a JSON object"),
    "Latin-1 bytes": (
        '{"term": "t", "category": "n", "gloss": "M\xfchle"}'.encode("latin-1"),
        "wrong encoding, wanted utf-8",
    ),
    "no text": (b'{"term": "t", "category": "noun"}', "missing column 'gloss'"),
    "no term for the prompt": (b'{"category": "noun", "gloss": "a text"}', "missing column 'term'"),
    "a number for the text": (
        b'{"term": "t", "category": "n", "gloss": 7}',
        "column 'gloss' must be a string, got int",
    ),
    "null for the text": (
        b'{"term": "t", "category": "n", "gloss": null}',
        "column 'gloss' must be a string, got null",
    ),
    "numbers for examples": (
        b'{"term": "t", "category": "n", "gloss": "a", "examples": [1]}',
        "column 'examples' must be a string or a list of strings, got list",
    ),
    "half of a surrogate pair": (
        b'{"term": "t", "category": "n", "gloss": "a \\ud83d b"}',
        "column 'gloss' holds half of a surrogate pair, which is no character",
    ),
    "nesting without end": (b"[" * 100_000, "not JSON"),
}


@pytest.mark.parametrize("phrase", LINES)
def test_an_unreadable_line_is_quarantined_and_its_neighbours_are_read(phrase: str, tmp_path: Path) -> None:
    line, reason = LINES[phrase]
    good = b'{"term": "t", "category": "noun", "gloss": "a good one"}\n'
    write(tmp_path, "a.jsonl", good + line + b"\n\n" + good)

    shard = read_shard(make_corpus(quarantine_share_max=ANYTHING), "shard-00", tmp_path)

    check_schema("quarantine", shard.quarantine)
    (row,) = shard.quarantine.to_pylist()
    assert (row["source_file"], row["source_line"]) == ("files/a.jsonl", 2)
    assert row["reason"].startswith(reason)
    assert shard.documents.column("source_line").to_pylist() == [1, 4]
    assert shard.num_records == 3


FILES: dict[str, tuple[str, bytes, str]] = {
    "a CSV without the column": ("a.csv", b"term,category,text,examples\nt,n,x,\n", "missing column 'gloss'"),
    "bytes that are no Parquet": ("a.parquet", b"PAR1 nothing here PAR1", "unreadable: "),
    "bytes that are no gzip": ("a.jsonl.gz", b"plain text", "unreadable: "),
}


@pytest.mark.parametrize("phrase", FILES)
def test_a_lost_file_is_one_quarantine_row_without_a_line(phrase: str, tmp_path: Path) -> None:
    name, body, reason = FILES[phrase]
    write(tmp_path, name, body)

    ((source_file, line, got),) = quarantined(tmp_path)

    assert (source_file, line) == (f"files/{name}", 0)
    assert got.startswith(reason)


EMPTY: dict[str, tuple[str, bytes]] = {
    "no byte": ("a.jsonl", b""),
    "blank lines": ("a.jsonl", b"\n\n"),
    "a header alone": ("a.csv", b"term,category,gloss,examples\n"),
    "blank lines of a CSV": ("a.csv", b"\n\n"),
    "a packed file of nothing": ("a.jsonl.gz", gzip.compress(b"")),
}


@pytest.mark.parametrize("phrase", EMPTY)
def test_an_empty_file_is_counted_and_loses_nothing(phrase: str, tmp_path: Path) -> None:
    name, body = EMPTY[phrase]
    write(tmp_path, name, body)
    write_jsonl(tmp_path / "files/b.jsonl", [gloss(1)])
    shard = read_shard(make_corpus(quarantine_share_max=0.0), "shard-00", tmp_path)
    shard.refuse_if_exceeded()
    assert (shard.num_files, shard.num_files_empty, shard.num_files_lost) == (2, 1, 0)
    assert (shard.documents.num_rows, shard.quarantine.num_rows) == (1, 0)


def test_a_parquet_file_without_the_column_is_lost_and_says_which(tmp_path: Path) -> None:
    (tmp_path / "files").mkdir()
    pq.write_table(pa.table({"term": ["t"], "gloss": ["g"]}), tmp_path / "files/a.parquet")

    assert quarantined(tmp_path) == [("files/a.parquet", 0, "missing column 'category', 'examples'")]


def test_what_a_torn_archive_still_gives_is_read_and_the_file_counts_as_lost(tmp_path: Path) -> None:
    whole = gzip.compress(
        "".join(f'{{"term": "t{n}", "category": "n", "gloss": "gloss {n * n}"}}\n' for n in range(20_000)).encode()
    )
    write(tmp_path, "a.jsonl.gz", whole[: len(whole) // 2])

    shard = read_shard(make_corpus(quarantine_share_max=ANYTHING), "shard-00", tmp_path)

    assert shard.documents.num_rows > 1_000
    assert shard.num_files_lost == 1
    assert shard.quarantine_share == 1.0
    assert f"unreadable after {shard.documents.num_rows}" in shard.quarantine.column("reason")[-1].as_py()


def test_a_csv_row_with_a_field_too_many_costs_that_row_alone(tmp_path: Path) -> None:
    write(tmp_path, "a.csv", b'term,category,gloss,examples\na,n,x y,\nb,n,x, y,z\n"c"d,n,x y,\ne,n,x y,\n')

    assert quarantined(tmp_path) == [
        ("files/a.csv", 3, "5 fields where the header has 4"),
        ("files/a.csv", 4, "not CSV: ',' expected after '\"'"),
    ]


UNCLOSED: dict[str, tuple[bytes, str]] = {
    "up to the end": (b"c,n,x y,\nd,n,x y,\n", "not CSV: a quote is opened and never closed"),
    "up to the next quote": (b'c,n,"x y",\nd,n,x y,\n', "not CSV: ',' expected after '\"', up to line 4"),
    "up to a quote that ends a field": (
        b'c,n,x y,\nd,n,x y,"\n',
        "3 fields where the header has 4, up to line 5: a quote may not be closed",
    ),
}


@pytest.mark.parametrize("phrase", UNCLOSED)
def test_an_unclosed_quote_costs_its_record_and_swallows_no_other(phrase: str, tmp_path: Path) -> None:
    following, reason = UNCLOSED[phrase]
    write(tmp_path, "a.csv", b'term,category,gloss,examples\na,n,x y,\nb,n,"x y,\n' + following)

    shard = read_shard(make_corpus(quarantine_share_max=ANYTHING), "shard-00", tmp_path)

    rows, lost = shard.documents.to_pylist(), shard.quarantine.to_pylist()
    assert [(row["term"], row["source_line"]) for row in rows][:2] == [("a", 2), ("c", 4)]
    assert (lost[0]["source_line"], lost[0]["excerpt"]) == (3, 'b,n,"x y,\n')
    assert lost[0]["reason"].startswith(reason)
    assert len(rows) + len(lost) == 4
    assert shard.num_files_lost == 0


def test_a_row_over_several_lines_with_a_field_too_many_costs_its_first_line(tmp_path: Path) -> None:
    write(tmp_path, "a.csv", b'term,category,gloss,examples\na,n,"x\nb,n,y z,\nw",1,2\nc,n,x y,\n')
    shard = read_shard(make_corpus(quarantine_share_max=ANYTHING), "shard-00", tmp_path)
    assert shard.documents.column("term").to_pylist() == ["b", "c"]
    assert quarantined(tmp_path)[0] == (
        "files/a.csv",
        2,
        "5 fields where the header has 4, up to line 4: a quote may not be closed",
    )


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"], ids=repr)
def test_a_csv_is_read_with_the_delimiter_that_its_header_is_written_with(delimiter: str, tmp_path: Path) -> None:
    lines = ["term,category,gloss,examples", "a,noun,x y,", "b,noun,z w,"]
    write(tmp_path, "a.csv", "\n".join(line.replace(",", delimiter) for line in lines).encode())
    shard = read_shard(make_corpus(quarantine_share_max=0.0), "shard-00", tmp_path)
    assert shard.documents.column("text").to_pylist() == ["x y", "z w"]


def test_a_column_that_is_missing_alone_is_missed_with_the_headers_own_delimiter(tmp_path: Path) -> None:
    write(tmp_path, "a.csv", b"term;category;glos;examples\na;noun;x y;\n")

    [(_, _, reason)] = quarantined(tmp_path)

    assert reason == "missing column 'gloss'"


def test_a_delimiter_that_the_corpus_names_is_the_only_one(tmp_path: Path) -> None:
    write(tmp_path, "a.csv", b"term#category#gloss#examples\na#noun#x;y, z#\n")
    assert quarantined(tmp_path) == [
        ("files/a.csv", 0, "missing column 'term', 'category', 'gloss', 'examples'"),
    ]
    assert quarantined(tmp_path, delimiter="#") == []


def test_each_file_of_a_corpus_is_in_the_first_encoding_that_reads_it(tmp_path: Path) -> None:
    for name, encoding in (("a", "utf-8"), ("b", "latin-1"), ("c", "ascii")):
        rows = [{"term": "t", "category": "n", "gloss": f"{name} {'Rad' if name == 'c' else 'Mühle'}"}]
        write(tmp_path, f"{name}.jsonl", json.dumps(rows[0], ensure_ascii=False).encode(encoding))
    shard = read_shard(make_corpus(encoding=("utf-8", "latin-1"), quarantine_share_max=0.0), "shard-00", tmp_path)
    shard.refuse_if_exceeded()
    assert shard.documents.column("text").to_pylist() == ["a Mühle", "b Mühle", "c Rad"]


@pytest.mark.parametrize("encodings", [("utf-16", "utf-8"), ("utf-8", "utf-16"), ("ascii", "utf-16", "utf-8")])
def test_utf_16_is_told_from_utf_8_in_either_order(encodings: tuple[str, ...], tmp_path: Path) -> None:
    line = json.dumps({"term": "t", "category": "n", "gloss": "Mühle"}, ensure_ascii=False)
    write(tmp_path, "a.jsonl", line.encode("utf-8"))
    write(tmp_path, "b.jsonl", line.encode("utf-16"))
    shard = read_shard(make_corpus(encoding=encodings, quarantine_share_max=0.0), "shard-00", tmp_path)
    shard.refuse_if_exceeded()
    assert shard.documents.column("text").to_pylist() == ["Mühle", "Mühle"]


def test_a_damaged_byte_does_not_turn_a_whole_file_into_another_encoding(tmp_path: Path) -> None:
    lines = [json.dumps({"term": "t", "category": "n", "gloss": f"Mühle {n}"}, ensure_ascii=False) for n in range(3)]
    body = "\n".join(lines).encode()
    write(tmp_path, "a.jsonl", body[:-1] + b"\xff" + body[-1:])
    shard = read_shard(make_corpus(encoding=("utf-8", "latin-1"), quarantine_share_max=1.0), "shard-00", tmp_path)
    assert shard.documents.column("text").to_pylist() == ["Mühle 0", "Mühle 1"]
    assert shard.quarantine.to_pylist()[0]["reason"] == "wrong encoding, wanted utf-8 or latin-1"


def test_a_torn_line_of_json_is_told_where_it_stands_in_the_file(tmp_path: Path) -> None:
    good = b'{"term": "t", "category": "n", "gloss": "a good one"}\n'
    write(tmp_path, "a.jsonl", good * 10 + b'{"term": "t", "gloss": "te\n' + b'{"term"\n' + good)
    assert quarantined(tmp_path) == [
        ("files/a.jsonl", 11, "not JSON: Invalid control character at: line 11 column 27"),
        ("files/a.jsonl", 12, "not JSON: Expecting ':' delimiter: line 12 column 8"),
    ]


def test_a_corpus_may_be_in_another_encoding(tmp_path: Path) -> None:
    for encoding in ("utf-16", "cp1252"):
        write(tmp_path, "a.jsonl", '{"term": "t", "category": "n", "gloss": "Mühle – Rad"}\n'.encode(encoding))

        shard = read_shard(make_corpus(encoding=encoding), "shard-00", tmp_path)

        assert shard.documents.column("text").to_pylist() == ["Mühle – Rad"]


@pytest.mark.parametrize(
    ("unit", "texts"),
    [
        ("line", [(1, "one\n"), (2, "two\n"), (5, "three\n")]),
        ("paragraph", [(1, "one\ntwo\n"), (5, "three\n")]),
        ("file", [(1, "one\ntwo\n\n\nthree\n")]),
    ],
)
def test_plain_text_is_cut_into_lines_paragraphs_or_files(
    unit: Any, texts: list[tuple[int, str]], tmp_path: Path
) -> None:
    write(tmp_path, "a.txt", b"one\r\ntwo\r\n\r\n \r\nthree\r\n".replace(b" ", b""))

    corpus = make_corpus(columns={"text": "text"}, prompt=ExamplePrompt(user="Go on."), text_unit=unit)
    shard = read_shard(corpus, "shard-00", tmp_path)

    rows = shard.documents.select(["source_line", "text"]).to_pylist()
    assert [(row["source_line"], row["text"]) for row in rows] == texts


@pytest.mark.parametrize(
    ("unit", "texts"),
    [
        ("paragraph", [(1, "one\r\n\ttwo\rthree\n"), (5, "four\r\n")]),
        ("file", [(1, "one\r\n\ttwo\rthree\n\r\nfour\r\n")]),
        ("line", [(1, "one\n"), (2, "\ttwo\n"), (3, "three\n"), (5, "four\n")]),
    ],
)
def test_where_every_byte_stays_as_it_is_the_ends_of_lines_do(
    unit: Any, texts: list[tuple[int, str]], tmp_path: Path
) -> None:
    content = b"one\r\n\ttwo\rthree\n\r\nfour\r\n"
    write(tmp_path, "a.txt", content)

    def read(form: Any) -> list[tuple[int, str]]:
        corpus = make_corpus(
            columns={"text": "text"},
            prompt=ExamplePrompt(user="Go on."),
            text_unit=unit,
            normalize=Normalization(text=form),
        )
        rows = read_shard(corpus, "shard-00", tmp_path).documents.select(["source_line", "text"]).to_pylist()
        return [(row["source_line"], row["text"]) for row in rows]

    assert read("code") == texts
    # The ids of other corpora stay.
    assert "\r" not in "".join(text for _, text in read("text"))


@pytest.mark.parametrize(
    ("unit", "form", "encoding", "text"),
    [
        ("file", "code", "utf-8", "\ufeffone\r\n\r\ntwo"),
        ("file", "code", ("utf-8", "latin-1"), "\ufeffone\r\n\r\ntwo"),
        ("file", "code", "utf-8-sig", "one\r\n\r\ntwo"),
        ("file", "text", "utf-8", "one\n\ntwo"),
        # The mark is the file's, and a paragraph is a part of it.
        ("paragraph", "code", "utf-8", "one\r\n"),
        ("line", "code", "utf-8", "one\n"),
    ],
)
def test_a_byte_order_mark_stays_where_a_text_is_a_whole_file_byte_for_byte(
    unit: Any, form: Any, encoding: Any, text: str, tmp_path: Path
) -> None:
    write(tmp_path, "a.txt", b"\xef\xbb\xbfone\r\n\r\ntwo")
    write(tmp_path, "b.txt", b"\xef\xbb\xbf")
    corpus = make_corpus(
        columns={"text": "text"},
        prompt=ExamplePrompt(user="Go on."),
        text_unit=unit,
        encoding=encoding,
        normalize=Normalization(text=form),
    )
    shard = read_shard(corpus, "shard-00", tmp_path)

    assert shard.documents.column("text").to_pylist()[0] == text
    assert shard.num_files_empty == 1


def test_above_the_share_the_refusal_names_the_worst_file_and_its_first_line(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "files/good.jsonl", [gloss(n) for n in range(90)])
    write(tmp_path, "bad.jsonl", b'{"term": 1\n' * 8)
    write(tmp_path, "worse.jsonl", b"\xff\n" + b"nonsense\n" * 8)
    shard = read_shard(make_corpus(quarantine_share_max=0.1), "shard-00", tmp_path)

    with pytest.raises(QuarantineExceeded) as refusal:
        shard.refuse_if_exceeded()

    text = str(refusal.value)
    assert "shard-00 of corpus glosses: 17 of 107 records and 0 of 3 files are unreadable, 15.89% where" in text
    assert (
        "quarantine_share_max allows 10.00%. Worst file: files/worse.jsonl (9 records; line 1: wrong encoding" in text
    )
    assert "repair the files, or raise quarantine_share_max" in text


def test_one_lost_file_of_ten_counts_as_a_tenth_however_few_lines_it_shows(tmp_path: Path) -> None:
    for number in range(9):
        write_jsonl(tmp_path / f"files/{number}.jsonl", [gloss(n) for n in range(50)])
    write(tmp_path, "lost.parquet", b"PAR1 nothing here PAR1")

    assert read_shard(make_corpus(), "shard-00", tmp_path).quarantine_share == pytest.approx(0.1)


def test_within_the_share_a_shard_is_not_refused(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "files/a.jsonl", [gloss(n) for n in range(99)])
    with (tmp_path / "files/a.jsonl").open("a") as file:
        file.write("nonsense\n")

    read_shard(make_corpus(quarantine_share_max=0.01), "shard-00", tmp_path).refuse_if_exceeded()


def test_each_file_is_dealt_to_exactly_one_shard_and_stays_there_when_others_come(tmp_path: Path) -> None:
    corpus = make_corpus(num_shards=4)
    for number in range(40):
        write_jsonl(tmp_path / f"files/{number}.jsonl", [gloss(number)])
    before = {shard: shard_files(corpus, shard, tmp_path) for shard in corpus.shard_keys}
    for number in range(40, 80):
        write_jsonl(tmp_path / f"files/{number}.jsonl", [gloss(number)])
    after = {shard: shard_files(corpus, shard, tmp_path) for shard in corpus.shard_keys}

    dealt = [path for paths in after.values() for path in paths]
    assert len(dealt) == len(set(dealt)) == 80
    assert all(set(before[shard]) <= set(after[shard]) for shard in corpus.shard_keys)
    assert all(before.values())


def test_a_glob_may_name_the_shard_itself_and_may_be_absolute(tmp_path: Path) -> None:
    corpus = make_corpus(num_shards=2, files=(str(tmp_path / "data/{shard}/*.jsonl"),))
    write_jsonl(tmp_path / "data/shard-01/x.jsonl", [gloss(1)])

    shard = read_shard(corpus, "shard-01", tmp_path / "home")

    assert shard.documents.column("source_file").to_pylist() == [f"{tmp_path}/data/shard-01/x.jsonl"]
    with pytest.raises(InvalidInput, match=r"No file of corpus glosses matches .*/shard-00/.*, wanted at least one"):
        read_shard(corpus, "shard-00", tmp_path / "home")


def test_a_file_that_a_glob_names_for_a_shard_is_dealt_to_no_other(tmp_path: Path) -> None:
    corpus = make_corpus(num_shards=2, files=("files/**/*.jsonl", "files/{shard}/*.jsonl"))
    for number in range(12):
        write_jsonl(tmp_path / f"files/{('shard-00', 'shard-01', 'more')[number % 3]}/{number}.jsonl", [gloss(number)])
    dealt = [path for shard in corpus.shard_keys for path in shard_files(corpus, shard, tmp_path)]
    assert len(dealt) == len(set(dealt)) == 12


def test_a_name_that_tells_no_format_is_refused_with_the_ones_that_do(tmp_path: Path) -> None:
    write(tmp_path, "notes.docx", b"x")

    with pytest.raises(InvalidInput, match=r"notes\.docx does not tell its format, wanted one of \.jsonl.*set format"):
        read_shard(make_corpus(), "shard-00", tmp_path)


def test_a_document_keeps_its_id_when_lines_are_added_above_it(tmp_path: Path) -> None:
    def ids() -> list[str]:
        return read_shard(make_corpus(), "shard-00", tmp_path).documents.column("document_id").to_pylist()

    write_jsonl(tmp_path / "files/a.jsonl", [gloss(1), gloss(2)])
    first = ids()
    write_jsonl(tmp_path / "files/a.jsonl", [gloss(7), gloss(1), gloss(2)])

    assert ids()[1:] == first
    assert len(set(ids())) == 3


@pytest.mark.parametrize("home", ["home", "my [home]", "[a-z]", "a]b[c", "[!x]{y}"])
@pytest.mark.parametrize("place", ["texts", "texts [2026]", "[t]/[1]", "a[b"])
def test_brackets_in_the_home_or_in_a_directory_are_part_of_its_name(home: str, place: str, tmp_path: Path) -> None:
    for directory in (place, "t/1", "b"):
        write_jsonl(tmp_path / home / directory / "a.jsonl", [gloss(1)])
    (tmp_path / home / place / "b.jsonl").write_bytes((tmp_path / home / place / "a.jsonl").read_bytes())

    for pattern in (f"{place}/*.jsonl", f"{tmp_path}/{home}/{place}/*.jsonl", f"{place}/[ab].jsonl"):
        if "{" in pattern:
            continue
        documents = read_shard(make_corpus(files=(pattern,)), "shard-00", tmp_path / home).documents
        assert {Path(name).name for name in documents["source_file"].to_pylist()} == {"a.jsonl", "b.jsonl"}
        assert documents.num_rows == 2


def test_brackets_are_a_pattern_where_no_directory_has_that_name(tmp_path: Path) -> None:
    for directory in ("t1", "t2", "t3"):
        write_jsonl(tmp_path / directory / "a.jsonl", [gloss(1)])

    assert read_shard(make_corpus(files=("t[12]/*.jsonl",)), "shard-00", tmp_path).documents.num_rows == 2
