"""What an event must be, and what is said of one that is not."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic_core import from_json

from headrace.inbox.events import Event, Refused, event_of, lines_of, read_event, usual_event

WHOLE = {
    "specversion": "1.0",
    "type": "order.created",
    "id": "order-1",
    "source": "shop",
    "campaign": "slogans",
    "time": "2026-11-22T12:53:44.25+01:00",
    "partitionkey": "customer-7",
    "sequence": "3",
    "tenant": "north",
    "class": "flex",
    "deadline": "2026-11-22T13:00:00Z",
    "data": {"product": "Wasserkocher ½ l", "price": 12.5},
}


def read(**changes: Any) -> Event | Refused:
    """The whole event with these changes; None takes an attribute out."""
    content = {name: value for name, value in {**WHOLE, **changes}.items() if value is not None}
    return read_event(json.dumps(content).encode(), tenant="key")


def changed(**changes: Any) -> dict[str, Any]:
    return changes


def test_an_event_has_what_its_json_says() -> None:
    event = read()
    assert event == Event(
        campaign="slogans",
        id="order-1",
        source="shop",
        time=1_795_348_424_250_000,
        key="customer-7",
        sequence=3,
        tenant="north",
        event_class="flex",
        deadline=1_795_352_400_000_000,
        data='{"product":"Wasserkocher ½ l","price":12.5}',
    )


def test_what_is_left_out_has_a_meaning() -> None:
    event = read(
        **dict.fromkeys(["specversion", "type", "time", "partitionkey", "sequence", "tenant", "class", "deadline"])
    )
    assert isinstance(event, Event)
    assert (event.time, event.key, event.sequence, event.tenant) == (None, "", 0, "key")
    assert (event.event_class, event.deadline) == ("batch", None)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        (changed(id=None), "id must be a text that is not empty, got none"),
        (changed(id=""), "id must be a text that is not empty, got ''"),
        (changed(id=7), "id must be a text that is not empty, got 7"),
        (changed(source="x" * 513), "source must have at most 512 characters, got 513"),
        (changed(campaign=None), "campaign must be a text that is not empty, got none"),
        (changed(specversion="0.3"), "specversion must be '1.0', got '0.3'"),
        (changed(time="yesterday"), "time must be a time from 1970 on with its offset"),
        (changed(time="2026-11-22T12:53:44"), "time must be a time from 1970 on with its offset"),
        (changed(time="1969-12-31T23:59:59Z"), "time must be a time from 1970 on with its offset"),
        (changed(time=1_795_348_424), "time must be a time from 1970 on with its offset"),
        (changed(deadline="soon"), "deadline must be a time from 1970 on with its offset"),
        (changed(partitionkey=["a"]), "partitionkey must be a text that is not empty, got ['a']"),
        (changed(sequence="first"), "sequence must be a whole number within ±2^63, got 'first'"),
        (changed(sequence=1.5), "sequence must be a whole number within ±2^63, got 1.5"),
        (changed(sequence=True), "sequence must be a whole number within ±2^63, got True"),
        (changed(sequence=2**63), "sequence must be a whole number within ±2^63"),
        (changed(**{"class": "urgent"}), "class must be one of live, flex, batch, got 'urgent'"),
        (changed(**{"class": ["live"]}), "class must be one of live, flex, batch, got ['live']"),
        (changed(data=None), "data must be a JSON object, got none"),
        (changed(data="text"), "data must be a JSON object, got 'text'"),
        (changed(data=None, data_base64="eA=="), "data must be a JSON object, got data_base64"),
    ],
)
def test_a_broken_event_says_what_is_wrong_with_it(changes: dict[str, Any], reason: str) -> None:
    refused = read(**changes)
    assert isinstance(refused, Refused)
    assert refused.reason.startswith(reason)
    assert refused.retry_after_seconds is None


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"{", "it must be JSON: "),
        (b'"text"', "it must be a JSON object, got 'text'"),
        (b"[]", "it must be a JSON object, got []"),
        (b"null", "it must be a JSON object, got none"),
        (b"\xff{}", "it must be JSON: "),
        (b"[" * 10_000, "it must be JSON: "),
        (b'{"id":"\\ud800"}', "it must be JSON: "),
        (b'{"id":NaN}', "it must be JSON: "),
    ],
)
def test_what_is_no_event_at_all_is_refused_too(raw: bytes, reason: str) -> None:
    refused = read_event(raw, tenant="key")
    assert isinstance(refused, Refused)
    assert refused.reason.startswith(reason)


def test_a_number_that_json_cannot_say_is_refused_and_a_word_that_looks_like_it_is_not() -> None:
    raw = json.dumps(WHOLE).replace("12.5", "1e400").encode()
    refused = read_event(raw, tenant="key")
    assert isinstance(refused, Refused)
    assert refused.reason.startswith("data must have numbers that fit into 64 bits")
    event = read(data={"band": "Infinity"})
    assert isinstance(event, Event)
    assert json.loads(event.data) == {"band": "Infinity"}


_WORDS: list[Any] = [None, "", "a", "½" * 512, "x" * 513, "3", "-7", "1.0", "flex", 7, 2**63, 1.5, True]
_WORDS += ["2026-11-22T12:53:44Z"]
_JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=4)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


@given(
    attributes=st.dictionaries(st.sampled_from([*WHOLE, "extension"]), st.sampled_from([*_WORDS, [], {}]), max_size=5),
    data=st.one_of(st.dictionaries(st.text(max_size=3), _JSON, max_size=4), _JSON),
    twice=st.sampled_from(["", '"id":"first",', '"data":{"a":1},', '"class":"urgent",']),
)
def test_compiled_code_reads_an_event_as_python_does(attributes: dict[str, Any], data: Any, twice: str) -> None:
    text = json.dumps({**WHOLE, "data": data, **attributes})
    raw = f"{{{twice}{text[1:]}".encode()
    try:
        wanted = event_of(from_json(raw, allow_inf_nan=False), tenant="key")
    except ValueError:
        wanted = None
    found = usual_event(raw, tenant="key")
    assert found is None or found == wanted
    if wanted is None:
        assert isinstance(read_event(raw, tenant="key"), Refused)
    else:
        assert read_event(raw, tenant="key") == wanted


def test_lines_without_text_are_no_events() -> None:
    assert lines_of(b'{"a":1}\n\n  \r\n{"b":2}\r\n') == [b'{"a":1}', b'{"b":2}\r']
