"""What an asset's page shows first of a partition: figures, the last days, five rows, the way to the report."""

import base64
import re
from datetime import date, timedelta
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.generation.partition_summary import DAYS_SHOWN, content_summary, review_summary
from headrace.generation.review import Review
from headrace.handoff.layout import manifest_key
from headrace.handoff.versions import Handoff, HandoffStore
from headrace.keys import ContentPartition
from headrace.store.local import LocalStore
from headrace.text.markdown import CHARS_MAX
from headrace.text.visible import one_line
from tests.generation.media_builders import make_reviewed_site
from tests.text.foreign import FOREIGN
from tests.text.rendered import texts_shown

DAY = date(2026, 11, 22)
PARTITION = ContentPartition(day=DAY.isoformat(), campaign="glossary", shard=3)
LINK = "[report of 2026-11-22](/assets/campaign_report?view=partitions&partition=2026-11-22)"


def make_review(*rows: tuple[str, str, list[str]]) -> Review:
    """Rows of (prompt, output, broken rules)."""
    prompts, outputs, rejected = zip(*rows, strict=True) if rows else ((), (), ())
    table = pa.table(
        {
            "position": pa.array(range(len(rows)), pa.int64()),
            "prompt": pa.array(prompts, pa.string()),
            "output": pa.array(outputs, pa.string()),
            "kept": pa.array([not broken for broken in rejected], pa.bool_()),
            "rejected_by": pa.array(rejected, pa.list_(pa.string())),
        }
    )
    rules = sorted({rule for broken in rejected for rule in broken})
    return Review(table=table, num_rejected_by={rule: sum(rule in broken for broken in rejected) for rule in rules})


def seal(handoffs: HandoffStore, asset: str, table: pa.Table, days_ago: int = 0) -> Handoff:
    key = ContentPartition(day=(DAY - timedelta(days=days_ago)).isoformat(), campaign="glossary", shard=3).key
    return handoffs.publish(asset, key, table, code_version="1", run_id="run")


def bars_of(text: str) -> dict[int, tuple[int, str]]:
    """Place → height and colour of each bar in the picture."""
    found = re.search(r"data:image/svg\+xml;base64,([A-Za-z0-9+/=]+)\)", text)
    assert found
    paths = ElementTree.fromstring(base64.b64decode(found[1]))
    return {
        (int(x) - 4) // 8: (int(height), path.attrib["stroke"])
        for path in paths
        for x, height in re.findall(r"M(\d+) 28v-(\d+)", path.attrib["d"])
    }


def shown(text: str) -> list[str]:
    """Texts cell by cell; nothing is a link but ours."""
    assert LINK in text
    return texts_shown(text.replace(LINK, "report"))


@pytest.fixture
def handoffs(tmp_path: Path) -> HandoffStore:
    return HandoffStore(LocalStore(tmp_path))


def test_a_review_says_its_share_its_rules_and_two_rejected_rows_before_three_others(handoffs: HandoffStore) -> None:
    rows: list[tuple[str, str, list[str]]] = [(f"Define {n}.", f"Output {n}.", []) for n in range(6)]
    rows[2:5] = [(f"Define {n}.", f"Output {n}.", ["length", "banned_terms"][: n - 1]) for n in (2, 3, 4)]
    text = review_summary(PARTITION, make_review(*rows), handoffs)
    cells = shown(text)
    assert cells[:3] == ["50% of 6 rows kept", ", rejected by banned terms 2, length 3", "report"]
    assert cells[-15:] == [
        *("Define 2.", "Output 2.", "length"),
        *("Define 3.", "Output 3.", "length, banned terms"),
        *("Define 0.", "Output 0.", "kept"),
        *("Define 1.", "Output 1.", "kept"),
        *("Define 5.", "Output 5.", "kept"),
    ]


def test_the_picture_has_the_last_days_shares_with_gaps_and_today_in_another_colour(
    handoffs: HandoffStore, tmp_path: Path
) -> None:
    half = make_review(("p", "o", []), ("p", "o", ["length"])).table
    seal(handoffs, "reviewed_content", half, days_ago=1)
    seal(handoffs, "reviewed_content", half.slice(1), days_ago=3)
    seal(handoffs, "reviewed_content", half, days_ago=DAYS_SHOWN)
    before = sorted(tmp_path.rglob("*"))
    text = review_summary(PARTITION, make_review(("p", "o", [])), handoffs)
    today = DAYS_SHOWN - 1
    assert bars_of(text) == {today - 3: (1, "#8b93a1"), today - 1: (14, "#8b93a1"), today: (28, "#2f6fde")}
    assert "![share kept, the last 14 days]" in text
    assert before == sorted(tmp_path.rglob("*")), "a picture takes no lease"


def test_content_says_its_rows_its_set_and_the_rows_of_the_last_days(handoffs: HandoffStore) -> None:
    table = make_review(*[(f"Define {n}.", f"Output {n}.", []) for n in range(8)]).table
    seal(handoffs, "generated_content", table.slice(0, 4), days_ago=2)
    text = content_summary(PARTITION, seal(handoffs, "generated_content", table), handoffs, "writer=tiny:1 · abc")
    assert bars_of(text) == {DAYS_SHOWN - 3: (14, "#8b93a1"), DAYS_SHOWN - 1: (28, "#2f6fde")}
    cells = shown(text)
    assert cells[:3] == ["8 rows", "of writer=tiny:1 · abc", "report"]
    assert cells[-2:] == ["Define 4.", "Output 4."]


def test_a_day_that_cannot_be_read_is_a_gap(handoffs: HandoffStore) -> None:
    table = make_review(("p", "o", [])).table
    damaged = seal(handoffs, "reviewed_content", table, days_ago=1)
    key = manifest_key(damaged.asset, damaged.partition, damaged.version)
    handoffs.objects.local_path(key).write_text("{}")
    assert list(bars_of(review_summary(PARTITION, make_review(("p", "o", [])), handoffs))) == [DAYS_SHOWN - 1]


def test_the_report_is_linked_by_its_key_in_a_project_with_a_prefix(handoffs: HandoffStore) -> None:
    text = review_summary(PARTITION, make_review(), handoffs, report_key="ours/campaign_report")
    assert "(/assets/ours/campaign_report?view=partitions&partition=2026-11-22)" in text


def test_a_partition_without_rows_has_a_summary_too(handoffs: HandoffStore) -> None:
    assert review_summary(PARTITION, make_review(), handoffs).startswith("**– of 0 rows kept**")


@pytest.mark.parametrize("text", [text for text in FOREIGN if "\ud83d" not in text], ids=range(len(FOREIGN) - 1))
def test_foreign_text_is_a_cell_like_any_other(handoffs: HandoffStore, text: str) -> None:
    cells = shown(review_summary(PARTITION, make_review((text, text, [])), handoffs))
    assert sum(one_line(text)[:20] in cell for cell in cells) == 2
    assert cells[-1] == "kept"


_ANY = st.characters(codec="utf-8")
_TEXT = st.text(_ANY, max_size=200) | st.text("|\\`*_<[😀漢\n", max_size=300) | st.just("|" * 3_000)
_RULES = st.lists(st.sampled_from(["prompt_leaked", "banned_terms", "repetition"]), unique=True)


@settings(max_examples=40, deadline=None)
@given(
    rows=st.lists(st.tuples(_TEXT, _TEXT, _RULES), max_size=7),
    num_days=st.sampled_from([0, DAYS_SHOWN - 1]),
)
def test_a_summary_is_always_shown_in_place_with_five_rows(
    tmp_path_factory: pytest.TempPathFactory, rows: list[Any], num_days: int
) -> None:
    text = review_summary(PARTITION, make_review(*rows), _site(tmp_path_factory, num_days))
    assert len(text) <= CHARS_MAX
    assert LINK in text
    if rows:
        assert len(text.split("\n\n")[-1].splitlines()) == 2 + min(5, len(rows))


_SITES: dict[int, HandoffStore] = {}


def _site(factory: pytest.TempPathFactory, num_days: int) -> HandoffStore:
    """A store with reviews of that many days before; shared, since nothing writes to it."""
    if num_days not in _SITES:
        _SITES[num_days] = HandoffStore(LocalStore(factory.mktemp("days")), leased=False)
        for days_ago in range(1, num_days + 1):
            seal(_SITES[num_days], "reviewed_content", make_review(("p", "o", [])).table, days_ago)
    return _SITES[num_days]


def test_a_review_says_what_its_rows_have_beside_their_texts(tmp_path: Path) -> None:
    site = make_reviewed_site(tmp_path)
    table = site.handoffs.open("reviewed_content", site.partition.key).table()
    seconds = sum(one["duration_seconds"] or 0 for row in table["media"].to_pylist() for one in row)
    text = review_summary(PARTITION, Review(table=table, num_rejected_by={"length": 3}), site.handoffs)
    assert f"rejected by length 3; 7 pictures by painter, 7 recordings by speaker ({seconds:.0f} s)" in text
    assert len(text) <= CHARS_MAX
