import pyarrow as pa
import pytest

from headrace.generation.review import RULES, rejections, repeated_share, review_rows
from headrace.generation.review_settings import ReviewSettings
from headrace.handoff.schemas import GENERATED_CONTENT, REVIEWED_CONTENT
from tests.generation.builders import Site, make_site

SETTINGS = ReviewSettings(words_min=3, words_max=12, banned_terms=("as an AI",))
STUCK = "a wheel that turns a wheel that turns a wheel that turns a wheel that turns"


@pytest.mark.parametrize(
    ("output", "finish_reason", "broken"),
    {
        "a definition": ("a channel that carries water to a mill", "stop", []),
        "nothing": ("", "stop", ["empty"]),
        "blanks": (" \n ", "length", ["empty"]),
        "a failed row": ("", "error", ["failed"]),
        "one word": ("channel", "stop", ["length"]),
        "too many words": (
            "one two three four five six seven eight nine ten eleven twelve thirteen",
            "stop",
            ["length"],
        ),
        "cut off": ("a channel that carries water to", "length", ["truncated"]),
        "stuck": (STUCK, "stop", ["length", "repetition"]),
        "the prompt again": ('Sure. Define the noun "race": it is', "stop", ["prompt_leaked"]),
        "a chat marker": ("a channel of water<|im_end|>", "stop", ["prompt_leaked"]),
        "a turn of the chat": ("a channel\nassistant: a channel", "stop", ["prompt_leaked"]),
        "a banned phrase": ("As an AI, I define channels", "stop", ["banned_terms"]),
        "a word that holds a banned phrase": ("it has an aim of some kind", "stop", []),
    }.values(),
)
def test_a_row_is_rejected_by_every_rule_that_it_breaks(output: str, finish_reason: str, broken: list[str]) -> None:
    row = {"prompt": 'Define the noun "race".', "output": output, "finish_reason": finish_reason}
    assert rejections(row, SETTINGS) == broken


def test_a_rule_with_a_limit_of_null_is_off() -> None:
    off = ReviewSettings(
        words_min=None, words_max=None, repeated_share_max=None, reject_truncated=False, reject_prompt_leaks=False
    )
    row = {"prompt": "wheel", "output": STUCK, "finish_reason": "length"}
    assert rejections(row, off) == []


@pytest.mark.parametrize(
    ("output", "share"),
    [("", 0.0), ("a b c a b c", 0.0), ("one two three four five six seven eight nine ten eleven twelve", 0.0)],
    ids=["empty", "too short to say", "no repetition"],
)
def test_the_repeated_share_of_short_and_varied_texts_is_zero(output: str, share: float) -> None:
    assert repeated_share(output) == share


def test_the_repeated_share_of_a_stuck_text_is_high() -> None:
    assert repeated_share(STUCK) > 0.6


def test_a_review_keeps_the_order_of_rows_and_counts_every_rule(tmp_path) -> None:
    site: Site = make_site(tmp_path)
    content = site.generate().content.table()
    review = review_rows(content, ReviewSettings(words_min=9))
    assert review.table.schema == REVIEWED_CONTENT
    assert review.table["row_id"].to_pylist() == content["row_id"].to_pylist()
    assert review.num_kept + review.num_rejected == 7
    assert set(review.num_rejected_by) == set(RULES)
    assert review.num_rejected_by["length"] == review.num_rejected == review.figures()["num_rejected_by_length"]


def test_an_empty_partition_has_an_empty_review() -> None:
    review = review_rows(pa.Table.from_pylist([], schema=GENERATED_CONTENT), SETTINGS)
    assert review.table.num_rows == review.num_kept == 0
    assert "pass_rate" not in review.figures()
