"""Keys under which texts are equal: of a column they are what plain Python makes of each text."""

import re
import sys
import unicodedata
from dataclasses import replace

import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from headrace.prep.clean_shards import clean_shard
from headrace.prep.text_keys import composed, text_key, text_keys_of
from headrace.prep.verdicts import judged_shards
from tests.prep.builders import make_corpus
from tests.prep.test_verdicts import ALL_RULES_OFF, document, in_one_run, make_shards


def keys(*texts: str | None) -> list[str | None]:
    return (
        pl.DataFrame({"text": texts}, schema={"text": pl.String}).select(text_keys_of(pl.col("text")))["text"].to_list()
    )


def plain_key(text: str) -> str:
    if re.search(r"\n[ \t]+\S", text):
        return unicodedata.normalize("NFC", text).casefold().rstrip()
    return text_key(text)


pieces = st.sampled_from(
    [
        *("a", "É", "e\u0301", "\u0301", "가", "\u1100", "\u1161", "\u11a8", "क", "\u093c", "क़", "Å", "Å", "Ω", "ﬁ"),
        *(
            " ",
            "  ",
            "\n",
            "\n  x",
            "\t",
            "\xa0",
            "\u3000",
            "\u2000",
            "\u2028",
            "\u200b",
            "\x1c",
            "水",
            "豈",
            "😀",
            "ß",
            "İ",
            "Σ",
            "ς",
            "STRASSE",
        ),
    ]
)


@given(st.lists(st.lists(pieces, max_size=8).map("".join), min_size=1, max_size=4))
def test_keys_of_a_column_are_those_of_each_text(texts: list[str]):
    assert keys(*texts, None) == [*map(plain_key, texts), None]


def test_keys_know_every_character_that_its_unicode_form_changes():
    characters = [chr(code) for code in range(sys.maxunicode + 1) if not 0xD800 <= code < 0xE000]
    spelt = [unicodedata.normalize("NFD", one) for one in characters]
    pairs = [(one, two) for one, two in zip(characters, spelt, strict=True) if one != two]

    composed, decomposed = keys(*(one for one, _ in pairs)), keys(*(two for _, two in pairs))

    # Greek and Korean with them.
    assert len(pairs) > 13_000
    assert composed == decomposed


def test_every_character_has_one_key_in_a_column_and_alone():
    """Alone, within a word and at its end, in capitals and small letters."""
    characters = [chr(code) for code in range(sys.maxunicode + 1) if not 0xD800 <= code < 0xE000]
    alone = keys(*characters)
    assert not [one for one, key in zip(characters, alone, strict=True) if key != text_key(one)]
    changed = [one for one, key in zip(characters, alone, strict=True) if key != one]
    for spelt in ("A{}b", "ab{}, c"):
        texts = [spelt.format(one) for one in changed]
        assert keys(*texts) == [*map(text_key, texts)]


def test_a_text_and_its_capitals_are_one():
    spellings = {
        "groß und weiß": "GROSS UND WEISS",
        "Die große Straße": "DIE GROSSE STRASSE",
        "ὀδυσσεὺς ὁ σοφός": "ὈΔΥΣΣΕῪΣ Ὁ ΣΟΦΌΣ",
        "a ﬁne ﬂoor": "A FINE FLOOR",
        "ᏣᎳᎩ": "ꮳꮃꭹ",
    }
    for one, other in spellings.items():
        assert keys(one) == keys(other) == [text_key(one)] == [text_key(other)]


def test_what_may_be_spelt_in_another_way_is_composed_as_if_all_were():
    """Only texts that the form may change are given to it."""
    characters = pl.Series([chr(code) for code in range(sys.maxunicode + 1) if not 0xD800 <= code < 0xE000])
    texts = pl.concat([characters, "a" + characters.str.normalize("NFD") + "b", pl.Series([None, ""], dtype=pl.String)])

    assert composed(texts).equals(texts.str.normalize("NFC"))


def test_a_text_in_capitals_is_a_copy_where_these_are_spelt_otherwise() -> None:
    """Beside other terms both stay, on one side: split by their texts' keys, they stood on two and no check said so."""
    small, large = "Die große Straße am Fluss, weiß und breit", "DIE GROSSE STRASSE AM FLUSS, WEISS UND BREIT"
    corpus = make_corpus(num_shards=2, rules=ALL_RULES_OFF, heldout_share=0.5)
    shards = make_shards([document("small", small)], [document("large", large)])
    alone = replace(corpus, near_duplicates=None, twins_jaccard=None)
    for one in (corpus, alone):
        assert in_one_run(one, shards) == {"small": ("exact_duplicate", "large", None, None)}

    terms = [document(f"{at}", [small, large][at % 2], term=f"term {at}", source_line=at) for at in range(40)]
    by_term = replace(corpus, duplicate_columns=("term", "text"))
    shards = make_shards(terms[:20], terms[20:])
    judged = judged_shards(by_term, shards).of_shard
    clean = [clean_shard(by_term, one.raw, {}, judged[one.key]).documents for one in shards]
    sides = [side for table in clean for side in table.column("split").to_pylist()]
    assert (len(sides), len(set(sides))) == (40, 1)
