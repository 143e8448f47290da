"""The rows that a report lists: all of them, or fewer with a word about it, and never more bytes than a page has."""

import datetime
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.generation.day_summary import CampaignDay
from headrace.generation.row_list import RowList, list_rows
from headrace.text.visible import visible_lines
from tests.generation.days import SETS, seal_day, sealed_rows
from tests.text.foreign import FOREIGN

TEXTS = [text for text in FOREIGN if "\ud83d" not in text]


def decoded(rows: RowList) -> list[dict[str, Any]]:
    """What the page's script makes of the list."""
    data = json.loads(rows.body)
    found = []
    for place, shard, made_by, verdict, rules, row_id, prompt, output, variation, *carried in data["rows"]:
        campaign = data["campaigns"][place]
        found.append(
            {
                "campaign": campaign["name"],
                "partition": campaign["key"] + shard,
                "version_set": campaign["sets"][made_by][1],
                "review": data["verdicts"][verdict],
                "rules": [campaign["rules"][rule] for rule in rules],
                "row_id": row_id,
                "prompt": prompt,
                "output": output,
                "variation": variation,
                "carried": dict(zip(campaign["carried"], carried, strict=True)),
            }
        )
    return found


@pytest.fixture(scope="module")
def day(tmp_path_factory: pytest.TempPathFactory) -> CampaignDay:
    return seal_day(tmp_path_factory.mktemp("day"), 400, output=lambda number: f"{TEXTS[number % len(TEXTS)]} {number}")


def test_every_row_is_listed_in_the_days_order_with_all_that_is_known_of_it(tmp_path: Path) -> None:
    day = seal_day(
        tmp_path,
        40,
        rejected=lambda number: ["length", "banned_terms"] if number == 3 else ["empty"] if number == 30 else [],
        carried={"level": list(range(40)), "topic": ["a", None] * 20},
    )
    listed = list_rows([day], bytes_max=100_000)
    rows = decoded(listed)
    assert (listed.num_rows, listed.num_listed, listed.num_rejected, listed.chars_max) == (40, 40, 2, None)
    assert [row["prompt"] for row in rows] == [f"Define the noun word{number}." for number in range(40)]
    assert rows[3] == {
        "campaign": "glossary",
        "partition": "2026-11-22|glossary-00",
        "version_set": SETS[1],
        "review": "rejected",
        "rules": ["length", "banned_terms"],
        "row_id": day.rows["row_id"][3],
        "prompt": "Define the noun word3.",
        "output": "A word, number 3.",
        "variation": None,
        "carried": {"level": 3, "topic": None},
    }
    assert [row["partition"] for row in (rows[19], rows[20])] == ["2026-11-22|glossary-00", "2026-11-22|glossary-01"]


def test_the_list_counts_as_the_sealed_tables_do(day: CampaignDay, tmp_path: Path) -> None:
    other = seal_day(tmp_path, 31, campaign="other", rejected=lambda number: ["empty", "length"][: number % 3])
    rows = decoded(list_rows([day, other], bytes_max=500_000))
    sealed = sealed_rows(tmp_path)
    of_other = [row for row in rows if row["campaign"] == "other"]
    assert len(rows) == 431
    assert sum(row["review"] == "kept" for row in of_other) == sealed["kept"].sum()
    rules = dict(sealed["rejected_by"].explode().drop_nulls().value_counts().iter_rows())
    assert Counter(rule for row in of_other for rule in row["rules"]) == rules == other.num_rejected_by


def test_foreign_text_stays_text_and_cannot_leave_the_script(day: CampaignDay) -> None:
    listed = list_rows([day], bytes_max=500_000)
    assert "<" not in listed.body
    assert [row["output"] for row in decoded(listed)] == [
        visible_lines(f"{TEXTS[number % len(TEXTS)]} {number}") for number in range(400)
    ]


def test_rows_that_nobody_reviewed_say_so(tmp_path: Path) -> None:
    rows = decoded(list_rows([seal_day(tmp_path, 3, is_reviewed=False)], bytes_max=10_000))
    assert [(row["review"], row["rules"]) for row in rows] == [("not reviewed", [])] * 3


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (True, "true"),
        (7, 7),
        (2**53, "9007199254740992"),
        (-1.5, -1.5),
        (float("nan"), "nan"),
        (datetime.date(2026, 11, 22), "2026-11-22"),
        ("<\u202e", "<\\u202e"),
        (None, None),
    ],
    ids=str,
)
def test_a_carried_value_keeps_its_number_or_becomes_text(tmp_path: Path, value: object, shown: object) -> None:
    carried = {"column": [value, None] if value is not None else [None, "x"]}
    day = seal_day(tmp_path, 2, num_shards=1, carried=carried)
    assert decoded(list_rows([day], bytes_max=10_000))[0]["carried"] == {"column": shown}


def test_texts_are_cut_before_a_row_is_left_out(tmp_path: Path) -> None:
    day = seal_day(tmp_path, 60, output=lambda number: "wörter " * 200)
    sizes: Sequence[tuple[int, int | None]] = [(200_000, None), (100_000, 1_000), (40_000, 400), (25_000, 160)]
    for bytes_max, chars_max in sizes:
        listed = list_rows([day], bytes_max=bytes_max)
        assert (listed.num_listed, listed.chars_max) == (60, chars_max), bytes_max
        lengths = {len(row["output"]) for row in decoded(listed)}
        assert lengths == {chars_max or 1_400}


def test_of_too_many_rows_all_rejected_ones_stay_while_they_are_the_smaller_half(day: CampaignDay) -> None:
    listed = list_rows([day], bytes_max=40_000)
    rows = decoded(listed)
    assert 80 < listed.num_listed == len(rows) < 400
    assert listed.num_rejected_listed == listed.num_rejected == 40 == sum(row["review"] == "rejected" for row in rows)
    fewer = list_rows([day], bytes_max=10_000)
    assert fewer.num_rejected == 40
    assert fewer.num_rejected_listed == -(-fewer.num_listed // 2) < 40


def test_the_sample_is_a_fair_one(tmp_path: Path) -> None:
    """Of the rows that are kept, every fourth is of the second set; so it is of those that are listed, within five
    standard deviations.
    """
    day = seal_day(tmp_path, 4_000)
    kept = [row for row in decoded(list_rows([day], bytes_max=400_000)) if row["review"] == "kept"]
    assert len(kept) > 1_000
    of_second = sum(row["version_set"] == SETS[1] for row in kept)
    share = 1_000 / 3_600
    assert abs(of_second - share * len(kept)) < 5 * (len(kept) * share * (1 - share)) ** 0.5


@settings(max_examples=40, deadline=None)
@given(bytes_max=st.integers(0, 120_000))
def test_a_list_never_has_more_bytes_than_it_may(day: CampaignDay, bytes_max: int) -> None:
    listed = list_rows([day, day], bytes_max=bytes_max)
    head = list_rows([day, day], bytes_max=0)
    assert head.num_listed == 0
    assert len(listed.body.encode()) <= max(bytes_max, len(head.body.encode()))
    assert len(json.loads(listed.body)["rows"]) == listed.num_listed


def test_a_row_has_the_number_of_its_variation_where_a_campaign_makes_several(tmp_path: Path) -> None:
    varied = seal_day(tmp_path / "varied", 6, carried={"variation": pa.array([0, 1, 2] * 2, pa.int32())})
    plain = seal_day(tmp_path / "plain", 2)
    rows = decoded(list_rows([varied, plain], bytes_max=100_000))
    assert [row["variation"] for row in rows] == [0, 1, 2, 0, 1, 2, None, None]
    assert all(row["carried"] == {} for row in rows)
