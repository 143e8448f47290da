"""Mistakes in files of prompts: name, bytes, and parts of what is told. The campaign's template names `{thing}`."""

import gzip
import io
import json

import pyarrow as pa
import pyarrow.parquet as pq


def _lines(*lines: str) -> bytes:
    return "".join(f"{line}\n" for line in lines).encode()


def _parquet(values: pa.Array, name: str = "thing") -> bytes:
    made = io.BytesIO()
    pq.write_table(pa.table({name: values}), made)
    return made.getvalue()


_GOOD = '{"thing": "a tree"}'
MISTAKES: list[tuple[str, bytes, str]] = [
    ("p.csv", _lines("Thing,price", "a tree,3"), "missing column 'thing' … got 'Thing,price'"),
    ("p.csv", _lines("thing ,price", "a tree,3"), "missing column 'thing' … got 'thing ,price'"),
    ("p.csv", _lines("a tree,3", "a sea,4"), "missing column 'thing' … got 'a tree,3'"),
    ("p.csv", _lines("thing,thing", "a tree,a sea"), "column 'thing' stands 2 times in the header"),
    (
        "p.csv",
        _lines("thing,price", "a tree,3", "a sea, wide,4"),
        "line 3 … 3 fields where the header has 2 … 'a sea, wide",
    ),
    ("p.csv", _lines("thing,price", "a tree"), "line 2 … 1 fields where the header has 2 … got 'a tree'"),
    (
        "p.csv",
        _lines("thing,price", '"a tree,3', "a sea,4"),
        "line 2 … quote is opened and never closed … got '\"a tree,3'",
    ),
    ("p.csv", _lines("thing,price", ",3"), "line 2 … column 'thing' must hold text … got ''"),
    ("p.csv", _lines("thing,price", "  ,3"), "line 2 … column 'thing' must hold text … got '  '"),
    ("p.csv", "thing\nMärchen\n".encode("latin-1"), "line 2 … wrong encoding, wanted utf-8 … got 'M\ufffdrchen'"),
    ("p.csv", "thing\na tree\n".encode("utf-16"), "p.csv … wrong encoding, wanted utf-8"),
    ("p.csv", "thing\na tree\n".encode("utf-16-le"), "p.csv … wrong encoding, wanted utf-8"),
    ("p.csv", b"thing\na \0tree\n", "line 2 … NUL"),
    ("p.csv", _lines("thing"), "p. … is empty"),
    ("p.csv", b"", "p. … is empty"),
    ("p.csv", b"PK\x03\x04\x14\x00\x06\x00" + bytes(range(256)), "p.csv … wrong encoding, wanted utf-8"),
    ("p.csv", _lines("<!DOCTYPE html>", "<title>Log in</title>"), "missing column 'thing' … got '<!DOCTYPE html>'"),
    ("p.csv", _lines('{"thing": "a tree"}'), "missing column 'thing'"),
    ("p.csv.gz", _lines("thing", "a tree"), "p.csv.gz … unreadable"),
    ("p.csv.gz", gzip.compress(_lines("thing", *["a tree"] * 2000))[:-30], "p.csv.gz … unreadable"),
    (
        "p.jsonl",
        json.dumps([{"thing": "a tree"}]).encode(),
        "line 1 … not a JSON object, but a list: write one object a line",
    ),
    ("p.jsonl", json.dumps({"thing": "a tree"}, indent=1).encode(), "line 1 … not JSON"),
    ("p.jsonl", _lines(_GOOD, '{"thing": "a sea",}'), 'line 2 … not JSON … got \'{"thing": "a sea",}\''),
    ("p.jsonl", _lines(_GOOD, "{'thing': 'a sea'}"), "line 2 … not JSON"),
    ("p.jsonl", _lines(_GOOD) + b'{"thing": "a s', 'line 2 … not JSON … got \'{"thing": "a s\''),
    ("p.jsonl", _lines(_GOOD, '{"thing": null}'), "line 2 … column 'thing' must hold text … got null"),
    ("p.jsonl", _lines(_GOOD, '{"thing": ["a sea"]}'), "line 2 … column 'thing' must hold text … got a list"),
    ("p.jsonl", _lines(_GOOD, '{"thing": {"de": "Meer"}}'), "line 2 … column 'thing' must hold text … got an object"),
    ("p.jsonl", _lines(_GOOD, '{"thing": true}'), "line 2 … column 'thing' must hold text … got True"),
    ("p.jsonl", _lines(_GOOD, '{"thing": NaN}'), "line 2 … column 'thing' must hold text … got nan"),
    ("p.jsonl", _lines(_GOOD, '{"thing": ""}'), "line 2 … column 'thing' must hold text … got ''"),
    ("p.jsonl", _lines(_GOOD, '{"thig": "a sea"}'), "line 2 … no column 'thing' … thig"),
    ("p.jsonl", _lines(_GOOD, '{"thing": "a", "thing": "b"}'), "line 2 … 'thing'"),
    ("p.jsonl", _lines(_GOOD, '{"thing": "\\ud800"}'), "line 2 … surrogate"),
    ("p.jsonl", _lines(_GOOD, '"a sea"'), "line 2 … object"),
    ("p.jsonl", _lines("thing,price", "a tree,3"), "line 1 … not JSON … got 'thing,price'"),
    ("p.jsonl", b"", "p. … is empty"),
    ("p.json", _lines(_GOOD), "p.json does not tell its format … set format"),
    ("p.xlsx", b"PK\x03\x04", "p.xlsx does not tell its format … csv"),
    ("prompts", _lines("a tree"), "prompts does not tell its format … set format"),
    ("p.txt", _lines("a tree", "a sea"), "line 1 … no column 'thing' … text"),
    ("p.parquet", b"not a table", "p.parquet … unreadable"),
    ("p.parquet", _parquet(pa.array(["a tree"] * 500))[:200], "p.parquet … unreadable"),
    ("p.parquet", _parquet(pa.array(["a tree"]), "Thing"), "missing column 'thing' … got 'Thing'"),
    ("p.parquet", _parquet(pa.array(["a tree", None])), "row 2 … column 'thing' must hold text … got null"),
    ("p.parquet", _parquet(pa.array([["a tree"]])), "row 1 … column 'thing' must hold text … got a list"),
    ("p.parquet", _parquet(pa.array([b"a tree"])), "row 1 … column 'thing' must hold text … got b'a tree'"),
    ("p.parquet", _parquet(pa.array([float("nan")])), "row 1 … column 'thing' must hold text … got nan"),
    ("p.parquet", _parquet(pa.array([True])), "row 1 … column 'thing' must hold text … got True"),
    ("p.parquet", _parquet(pa.array([], pa.string())), "p. … is empty"),
]
