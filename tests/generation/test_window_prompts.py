"""The prompts of a sealed window: one of each event, in its order, and what holds none is refused by itself."""

from pathlib import Path
from typing import Any

import pytest

from headrace.errors import InvalidCampaign, InvalidInput
from headrace.generation.campaign import Campaign
from headrace.generation.prompt_source import PromptSource
from headrace.generation.window_prompts import newest_window, prompts_of_events, prompts_of_window, sealed_window
from headrace.handoff.schemas import check_schema
from headrace.inbox.rules import InboxRules
from headrace.keys import ContentPartition
from headrace.store.local import LocalStore
from simulation.campaign_site import make_campaign
from tests.inbox_builders import event, events_table, seal_window


def orders(**prompts: Any) -> Campaign:
    source = {"inbox": InboxRules(), "template": "Describe {product}."} | prompts
    return make_campaign(name="orders", num_shards=1, prompts=PromptSource(**source))


def test_every_event_is_a_prompt_in_the_windows_order_and_names_where_it_came_from() -> None:
    events = events_table(
        event("9", {"product": "a kettle"}, key="kitchen"),
        event("1", {"product": "a lamp", "colour": "red"}, source="till"),
    )
    listed = prompts_of_events(orders(), events)

    check_schema("prompts", listed.prompts)
    assert listed.refused.num_rows == 0
    shown = [
        {name: row[name] for name in ("position", "text", "event_id", "event_source", "event_key")}
        for row in listed.prompts.to_pylist()
    ]
    assert shown == [
        {"position": 0, "text": "Describe a kettle.", "event_id": "9", "event_source": "shop", "event_key": "kitchen"},
        {"position": 1, "text": "Describe a lamp.", "event_id": "1", "event_source": "till", "event_key": ""},
    ]


def test_equal_texts_of_two_events_are_two_prompts_and_one_event_is_the_same_in_any_window() -> None:
    twice = prompts_of_events(
        orders(), events_table(event("1", {"product": "a lamp"}), event("2", {"product": "a lamp"}))
    )
    alone = prompts_of_events(orders(), events_table(event("2", {"product": "a lamp"})))

    first, second = twice.prompts["prompt_id"].to_pylist()
    assert first != second
    assert alone.prompts["prompt_id"].to_pylist() == [second]


REFUSED: dict[str, tuple[dict[str, object] | str, str]] = {
    "a key of the template that the event lacks": (
        {"colour": "red", "sku": "a"},
        "has no column 'product' (it has colour, sku).",
    ),
    "null in a template": ({"product": None}, "column 'product' must hold text, a number or a date, got null."),
    "a list in a template": ({"product": ["a"]}, "column 'product' must hold text, a number or a date, got a list."),
    "nothing but blanks": ({"product": "  "}, "column 'product' must hold text, got '  '."),
    "a NUL character": (
        {"product": "a\0b"},
        "holds a NUL character, as a file of another encoding does (UTF-16?): set encoding.",
    ),
    "data that is no object": ("[1]", "data is not a JSON object."),
    "data that is no JSON": ("{", "data is not JSON: Expecting property name enclosed in double quotes: line 1 column"),
    "a wanted key that stands twice": ('{"product": "a", "product": "b"}', "the key 'product' stands twice in data."),
    "another type than the events before": (
        {"product": "a lamp", "sku": 7},
        "column 'sku', which carry names, must hold text as in Event 'first', got 7.",
    ),
}


@pytest.mark.parametrize("phrase", REFUSED)
def test_an_event_without_a_prompt_is_refused_by_itself_with_its_reason(phrase: str) -> None:
    data, reason = REFUSED[phrase]
    first, last = event("first", {"product": "a pan", "sku": "p"}), event("last", {"product": "a pot", "sku": "q"})
    listed = prompts_of_events(orders(carry=("sku",)), events_table(first, event("broken", data, key="k"), last))

    check_schema("refused_events", listed.refused)
    assert listed.prompts["event_id"].to_pylist() == ["first", "last"]
    assert listed.prompts["position"].to_pylist() == [0, 1]
    assert listed.prompts["sku"].to_pylist() == ["p", "q"]
    [refused] = listed.refused.to_pylist()
    assert (refused["event_id"], refused["event_source"], refused["event_key"]) == ("broken", "shop", "k")
    assert refused["reason"].startswith(reason)


def test_a_number_that_float64_cannot_hold_costs_its_own_event_and_not_the_column() -> None:
    large = 2**53 + 1
    listed = prompts_of_events(
        orders(carry=("amount",)),
        events_table(
            event("1", {"product": "a", "amount": large}),
            event("2", {"product": "b", "amount": 0.5}),
            event("3", {"product": "c", "amount": 3}),
        ),
    )

    assert listed.prompts["amount"].to_pylist() == [large, 3]
    assert listed.refused["event_id"].to_pylist() == ["2"]


def test_a_carried_key_that_no_event_of_a_window_has_is_null() -> None:
    listed = prompts_of_events(orders(carry=("sku",)), events_table(event("1", {"product": "a lamp"})))

    assert listed.prompts["sku"].to_pylist() == [None]


def test_a_window_whose_events_all_hold_no_prompt_has_an_empty_list() -> None:
    listed = prompts_of_events(orders(), events_table(event("1", {}), event("2", {})))

    check_schema("prompts", listed.prompts)
    assert (listed.prompts.num_rows, listed.refused.num_rows) == (0, 2)


def test_a_partition_finds_its_window_among_windows_and_late_parts(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    for window, late_part, name in ((1, 0, "a"), (2, 0, "b"), (1, 1, "c"), (1, 2, "d")):
        seal_window(store, [event(name, {"product": name})], window=window, late_part=late_part)

    def events_of(key: str) -> list[str]:
        window = sealed_window(store, ContentPartition.parse(f"2026-11-22|{key}"))
        return prompts_of_window(orders(), store, window).prompts["event_id"].to_pylist()

    found = {key: events_of(key) for key in ("orders-w000001", "orders-w000001-late", "orders-w000001-late2")}
    assert found == {"orders-w000001": ["a"], "orders-w000001-late": ["c"], "orders-w000001-late2": ["d"]}
    newest = newest_window(store, "orders")
    assert newest is not None
    assert newest.name == "orders-w000002"


def test_a_partition_that_is_no_window_is_refused_with_the_one_that_is(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    seal_window(store, [event("1", {"product": "a"})])

    with pytest.raises(InvalidInput, match=r"ends on 2026-11-22\. Ask for 2026-11-22\|orders-w000001\.$"):
        sealed_window(store, ContentPartition.parse("2026-11-23|orders-w000001"))
    with pytest.raises(InvalidInput, match="is no window of campaign 'orders' that was sealed in this store"):
        sealed_window(store, ContentPartition.parse("2026-11-22|orders-w000002"))


SOURCES: dict[str, tuple[dict[str, Any], str]] = {
    "neither files nor an inbox": (
        {},
        "lacks the key 'files', a glob of prompt files, or 'inbox', which takes events: {} is as usual.",
    ),
    "both": (
        {"files": "a.jsonl", "inbox": InboxRules()},
        "has files and inbox, and prompts come from one of them, got files 'a.jsonl': take one out.",
    ),
    "an encoding of events": (
        {"inbox": InboxRules(), "encoding": ("utf-16",)},
        "encoding is said of files, and an inbox takes events, got ('utf-16',): take it out.",
    ),
    "a draw from events": (
        {"inbox": InboxRules(), "per_shard": 3},
        "per_shard is said of files, and an inbox takes events, got 3: take it out.",
    ),
    "the event's own columns carried": (
        {"inbox": InboxRules(), "carry": ("event_id",)},
        "carry must not name 'event_id': every row of an event has a column of that name. Rename the key of the "
        "events' data.",
    ),
}


@pytest.mark.parametrize("phrase", SOURCES)
def test_prompts_come_from_files_or_from_an_inbox(phrase: str) -> None:
    given, said = SOURCES[phrase]
    with pytest.raises(InvalidCampaign) as refused:
        PromptSource(**given)
    assert str(refused.value) == said


def test_a_campaign_with_an_inbox_has_windows_and_no_shards() -> None:
    with pytest.raises(InvalidCampaign, match="num_shards divides a day's list"):
        make_campaign(num_shards=4, prompts=PromptSource(inbox=InboxRules()))
    campaign = orders()
    assert campaign.takes_events
    assert campaign.dynamic_keys == {"campaign": ["orders"], "campaign_shard": []}
    assert campaign.partition_keys("2026-11-22") == []
