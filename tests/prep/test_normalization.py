"""What normalization may change, on texts of twenty kinds in ten forms each, compared with plain Python."""

import random
import re
import unicodedata
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from headrace.prep.normalization import NormalForm, Normalization, in_form, normalised
from headrace.prep.sources import read_shard
from tests.prep.builders import make_corpus

KINDS = {
    "Python": "def f(x):\n    if x:\n        return 1\n\n    return 2\n",
    "a Makefile": "all: a.o\n\tcc -o all a.o\n\n\nclean:\n\trm -f all\n",
    "YAML": "a:\n  - b:  1\n    c: |\n      two\n\n      lines\n",
    "a nested list": "- one\n  - two\n    - three\n\n- four",
    "tab-separated values": "name\tvalue\t\nmill\t\t3\n",
    "a Markdown table": "| a   | b |\n|-----|---|\n| 1   |   |\n",
    "a Markdown line break": "one  \ntwo\\\nthree\n\n    code\n",
    "C with includes": "#include <stdio.h>\n\nint main(void) {\n\treturn 0;   /* ok */\n}\n",
    "a poem": "Shall I compare thee\n    to a summer's day?\n\n\n        Thou art",
    "a log": "12:00:01  INFO   started\n12:00:02  ERROR  at 0x1F\n",
    "a diff": "--- a\n+++ b\n@@ -1 +1 @@\n- \n+\tx\n",
    "JSON": '{\n  "a": [1,\n        2],\n  "b": "\\t"\n}',
    "Arabic": "الماء  يجري\nفي القناة\n",
    "Hebrew with marks": "\u05e9\u05b8\u05c1\u05dc\u05d5\u05b9\u05dd  \u05e2\u05d5\u05dc\u05dd",
    "emoji with joiners": "\U0001f469\u200d\U0001f680 \U0001f468\u200d\U0001f469\u200d\U0001f467 \u2764\ufe0f",
    "Khmer with word separators": "\u1791\u17b9\u1780\u200b\u17a0\u17bc\u179a\u200b\u1780\u17d2\u1793\u17bb\u1784",
    "Persian with a non-joiner": "می\u200cخواهم",
    "Chinese": "水车转动。\u3000\u3000第二段\n",
    "Hindi": "पानी की  चक्की\n\nकि",
    "ASCII art": "  /\\_/\\\n ( o.o )\n  > ^ <",
}
# As a file may hold the same text.
VARIANTS = {
    "as it is": lambda text: text,
    "Windows line ends": lambda text: text.replace("\n", "\r\n"),
    "old line ends": lambda text: text.replace("\n", "\r"),
    "a byte order mark": lambda text: "\ufeff" + text,
    "decomposed": lambda text: unicodedata.normalize("NFD", text),
    "a soft hyphen": lambda text: text[:3] + "\u00ad" + text[3:],
    "a control character": lambda text: text[:2] + "\x07" + text[2:],
    "blank lines before": lambda text: " \n\t\n\n" + text,
    "blanks after": lambda text: text + " \n \t\n",
    "compatibility forms": lambda text: text + "ﬁ①\u00a0Ａ",
}


def texts_of(kind: str) -> list[str]:
    """Ten texts of a kind: its own, and lines of it in other numbers, orders and depths, the same in each run."""
    draw, lines = random.Random(kind), KINDS[kind].split("\n")
    others = []
    for _ in range(9):
        drawn = draw.choices(lines, k=draw.randint(1, 3 * len(lines)))
        others.append("\n".join(draw.choice(["", "", "    ", "\t", "\n"]) + line for line in drawn))
    return [KINDS[kind], *others]


def formed(text: str, form: NormalForm) -> str:
    return pl.select(in_form(pl.lit(text), form)).item()


def formed_all(texts: list[str], form: NormalForm) -> list[str]:
    return pl.DataFrame({"text": texts}).select(in_form(pl.col("text"), form)).get_column("text").to_list()


def as_stated(text: str) -> str:
    """What `text` says that it changes, in plain Python."""
    text = unicodedata.normalize("NFC", re.sub("[\u00ad\u2060\ufeff]", "", text))
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    text = "".join(" " if unicodedata.category(one) == "Cc" and one not in "\n\t" else one for one in text)
    while (line := text.partition("\n"))[1] and not line[0].strip(" \t"):
        text = line[2]
    return text.rstrip()


@pytest.mark.parametrize("kind", KINDS)
def test_code_keeps_every_byte_and_text_changes_what_it_states_alone(kind: str) -> None:
    texts = [variant(text) for text in texts_of(kind) for variant in VARIANTS.values()]

    assert formed_all(texts, "code") == texts
    assert formed_all(texts, "text") == [as_stated(text) for text in texts]


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet"])
def test_two_hundred_texts_of_twenty_kinds_come_out_of_a_file_as_they_are(suffix: str, tmp_path: Path) -> None:
    texts = list(dict.fromkeys(text for kind in KINDS for text in texts_of(kind) if text))
    frame = pl.DataFrame({"term": ["a"] * len(texts), "category": ["b"] * len(texts), "gloss": texts})
    (tmp_path / "files").mkdir()
    write: Any = {".jsonl": frame.write_ndjson, ".csv": frame.write_csv, ".parquet": frame.write_parquet}[suffix]
    write(tmp_path / f"files/texts{suffix}")
    columns = {"term": "term", "category": "category", "text": "gloss"}

    read = read_shard(make_corpus(columns=columns), "shard-00", tmp_path)
    clean = normalised(pl.DataFrame(read.documents), Normalization(text="code")).get_column("text").to_list()

    assert len(texts) > 150
    assert read.quarantine.num_rows == 0
    assert clean == texts


def test_by_default_indentation_tabs_and_empty_lines_survive() -> None:
    assert formed(KINDS["Python"], "text") == KINDS["Python"].rstrip()
    assert formed(KINDS["a Makefile"], "text") == KINDS["a Makefile"].rstrip()
    assert formed("\n\n    indented\n", "text") == "    indented"


def test_prose_has_single_blanks_and_at_most_one_empty_line_but_keeps_joiners_and_separators() -> None:
    assert formed("one\u00a0 two \r\n\r\n\r\n\r\nthree\x07 four\ufeff \U0001f469\u200d\U0001f680", "prose") == (
        "one two\n\nthree four \U0001f469\u200d\U0001f680"
    )
    assert formed(KINDS["Khmer with word separators"], "prose") == KINDS["Khmer with word separators"]


def documents(**values: Any) -> pl.DataFrame:
    row = {"term": "a", "category": "b", "text": "c", "examples": ["d"]} | values
    schema = {"term": pl.String, "category": pl.String, "text": pl.String, "examples": pl.List(pl.String)}
    return pl.DataFrame([row], schema=schema)


def test_names_and_examples_are_on_one_line_unless_the_corpus_says_otherwise() -> None:
    given_document = documents(term=" mu\u0308hle\n rad ", category="", examples=["  an\texample ", " "])

    (row,) = normalised(given_document, Normalization()).to_dicts()
    (as_code,) = normalised(given_document, Normalization(term="code", examples="text")).to_dicts()

    assert (row["term"], row["category"], row["examples"]) == ("mühle rad", None, ["an example"])
    assert (as_code["term"], as_code["examples"]) == (" mu\u0308hle\n rad ", ["  an\texample"])


@example("a\u00ad\u0301", "text")
@given(
    st.text(st.sampled_from(list("a \t\n\r\u00ad\ufeff\x07e\u0301")), max_size=30),
    st.sampled_from(["text", "prose", "line", "code"]),
)
def test_normalising_twice_changes_nothing(text: str, form: NormalForm) -> None:
    once = formed(text, form)

    assert formed(once, form) == once
