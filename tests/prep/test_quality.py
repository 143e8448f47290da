"""What the rules measure, against plain Python; and what each rule set keeps and drops."""

from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.prep.broken_text import broken
from headrace.prep.cleaning import prepared
from headrace.prep.measures import MEASURES
from headrace.prep.quality import first_rule, quality_rules, with_counts
from headrace.prep.rule_sets import FIGURES, LIMITS, PHRASES, QualityRules, RuleSet
from tests.prep.builders import make_corpus, make_raw
from tests.prep.measure_reference import reference_measures

LICENSE = (Path(__file__).parents[2] / "LICENSE").read_text()
CHINESE = (
    "水车由流水推动，带动石磨把麦子磨成面粉。老人每天清晨打开闸门，"
    "让水渠里的水流向水轮，傍晚再把它关上，年年如此，从不间断。"
)
PROSE = (
    "The miller opens the gate and lets the water run down the race to the wheel. It turns slowly at first, and then "
    "the stones begin to grind. By noon the sacks are full of flour, and carts that have come from the villages wait "
    "in the yard. He shuts the gate in the evening, when the light is gone and the wheel stands still with its paddles."
)


def measured(*texts: str) -> list[dict[str, float]]:
    corpus = make_corpus(rules=QualityRules.of("web"))
    counted = with_counts(pl.DataFrame({"text": texts}), corpus).drop("text")
    return [{name[1:]: value for name, value in row.items()} for row in counted.to_dicts()]


def check_measures(text: str) -> None:
    [found] = measured(text)
    expected = reference_measures(text)
    assert {name: found[name] for name in expected} == expected


@pytest.mark.parametrize("text", [LICENSE, CHINESE, PROSE, "• a\n- b\n\nc...\nd…\n\n\nc...", "# a # b", ""])
def test_measures_are_those_of_plain_python(text: str) -> None:
    check_measures(text)


pieces = st.sampled_from(
    [
        *("a", "the", " ", " ", "\n", "\n\n", "B1", "#", "…", "...", "-", "•", "水", "é", "e\u0301", ".", "ไ", "'"),
        *("! ", "?", "。", "”", '"', "{", "a line of more than thirty letters"),
        *("❤\ufe0f", "\u200d", "A", "_", "ﬁ", "Ｋ", "\U00020000", "😀", "\t"),
    ]
)


@given(st.lists(pieces, max_size=40).map("".join))
def test_measures_are_those_of_plain_python_for_any_text(text: str) -> None:
    check_measures(text)


def test_a_text_that_is_measured_beside_others_has_the_same_measures() -> None:
    texts = [LICENSE, "", CHINESE, PROSE, "水", "dot.", "..", "\n\nagain\n\nagain\n"]

    assert measured(*texts) == [measured(text)[0] for text in texts]


def test_other_words_make_another_sequence_whatever_their_letters_add_up_to() -> None:
    # Their sums by letters and places are equal: once taken for one sequence that comes twice.
    text = "a bcd " + "one two three four " + "bb bd"

    check_measures(text)
    assert measured(text)[0]["top_2_gram_characters"] == len("a bcd")


def verdict(text: str, rule_set: RuleSet, **limits: float | None) -> str | None:
    corpus = make_corpus(rules=QualityRules.of(rule_set, **limits))
    documents = prepared(pl.DataFrame(make_raw(text)), corpus).with_columns(pl.lit(None, pl.String).alias("label"))
    return first_rule(documents, corpus).item()


def test_no_default_drops_a_short_answer_a_table_a_program_or_another_script() -> None:
    texts = ["Paris", "42", "| a | b |\n|---|---|\n| 1 | 2 |", "#include <stdio.h>\n#include <math.h>\nint main() {}"]
    texts += ["See https://example.org/a/very/long/path/that/is/one/word?with=query", "1 2 3 4 5 6 7 8 9 10 11 12"]
    texts += [CHINESE, "水車", "กังหันน้ำหมุนช้า", "កង់ទឹក", LICENSE, PROSE]

    assert [verdict(text, "instructions") for text in texts] == [None] * len(texts)


def test_long_prose_is_not_repetitive_for_its_length() -> None:
    for rule_set in ("short", "instructions", "web"):
        assert verdict(LICENSE, rule_set, words_max=None) is None
    assert verdict(PROSE, "web") is None


def test_characters_count_as_words_where_a_script_has_none() -> None:
    assert verdict(CHINESE, "web") is None
    assert verdict(CHINESE[:20], "web") == "too_few_words"
    assert verdict(CHINESE, "short") is None


BABBLE: dict[str, tuple[str, RuleSet, str]] = {
    "one word again and again": ("spam eggs " + "spam " * 60, "instructions", "repeated_words"),
    "one line again and again": (PROSE + "\nsubscribe to our newsletter now" * 30, "web", "repeated_lines"),
    "a list alone": ("\n".join(f"- {word}" for word in PROSE.split()), "web", "too_many_bullets"),
    "teasers": ("\n".join(f"{PROSE[at : at + 40]}..." for at in range(0, 280, 5)), "web", "too_many_symbols"),
    "numbers": ("12 34 56 78 90 " * 12, "web", "too_few_letter_words"),
    "letters": ("a b c d e f g h i j " * 8, "web", "words_too_short"),
    "minified code": ("var a=" + "b+" * 600 + "c;", "code", "line_too_long"),
    "a menu": (
        "\n".join(sentence for sentence in PROSE.replace(".", ",").split(",")),
        "fineweb",
        "too_few_ended_lines",
    ),
    "lines of a few words": (
        "\n".join(f"{' '.join(PROSE.split()[at : at + 4])}." for at in range(0, 60, 4)),
        "fineweb",
        "too_many_short_lines",
    ),
    "filler": (f"{PROSE}\nLorem ipsum dolor sit amet.", "fineweb", "filler"),
    "a table of numbers as code": ("1, 2, 3, 4, 5, 6\n" * 9, "code", "too_few_letters"),
}


@pytest.mark.parametrize("phrase", BABBLE)
def test_each_rule_set_drops_what_it_is_for(phrase: str) -> None:
    text, rule_set, rule = BABBLE[phrase]

    assert verdict(text, rule_set) == rule


def test_every_limit_of_a_rule_set_is_a_rule_and_every_rule_counts_what_is_measured() -> None:
    for rule_set, limits in LIMITS.items():
        rules = [FIGURES[limit].rule for limit in FIGURES if limit in limits]
        names = [rule.name for rule in quality_rules(make_corpus(rules=QualityRules.of(rule_set)))]
        assert [name for name in names if name in rules] == rules
    counted = {name for figure in FIGURES.values() for name in (*figure.count, figure.of or "words")}
    assert counted <= {*MEASURES, *PHRASES}
    assert len({figure.rule for figure in FIGURES.values()}) == len(FIGURES)


BROKEN = {
    "a mÃ¼hle is a mill": "a mühle is a mill",
    "Le cafÃ© est fermÃ©": "Le café est fermé",
    "ÐŸÑ€Ð¸Ð²ÐµÑ‚": "Привет",
    "åŒ—äº¬": "北京",
    "price: Â£5": "price: £5",
}
WELL = [
    "SÃO PAULO É GRANDE",
    "Ã is a letter of Portuguese",
    "UTF-8 that is read as Latin-1 turns ü into Ã¼",
    "ÂNCORA E ÎLES",
    "Română: â, î, ă",
    "naïve café",
    "25 °C ± 2 µm",
    "",
]


def test_a_text_is_broken_if_undoing_it_makes_it_better() -> None:
    texts = pl.Series([*BROKEN, *WELL, "a m\ufffdhle", None])

    found, repaired = broken(texts)

    assert found.to_list() == ["Ã¼", "Ã©", "ÐŸ", "åŒ", "Â£", *[None] * len(WELL), "\ufffd", None]
    assert repaired.to_list() == [*BROKEN.values(), *WELL, "a m\ufffdhle", None]
    assert texts[0] == "a mÃ¼hle is a mill"


def test_broken_texts_are_dropped_repaired_or_kept_as_the_corpus_says() -> None:
    assert verdict("a mÃ¼hle is a mill", "short") == "broken_characters"
    assert verdict("a mÃ¼hle is a mill", "none") is None
    corpus = make_corpus(rules=QualityRules.of("short", broken_characters="repair"))
    documents = prepared(pl.DataFrame(make_raw("a mÃ¼hle is a mill", "a m\ufffdhle is a mill")), corpus)
    assert documents.get_column("text").to_list() == ["a mühle is a mill", "a m\ufffdhle is a mill"]
    assert documents.get_column("broken").to_list() == [None, "\ufffd"]


def test_the_names_of_measures_are_their_columns() -> None:
    assert len(MEASURES) == len(set(MEASURES)) == 36


def test_the_reference_says_of_every_limit_whose_it_is() -> None:
    reference = (Path(__file__).parents[2] / "docs/reference/corpus.md").read_text()
    for limit, figure in FIGURES.items():
        [line] = [line for line in reference.splitlines() if f"`{limit}`" in line]
        assert f"({figure.source[0].upper()}{figure.source[1:]})." in line
