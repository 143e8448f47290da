"""Positions in streams, and refused messages, in a log; and what a message says."""

import json
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from headrace.errors import InvalidInput
from headrace.handoff.erasures import ErasedData
from headrace.inbox import streams
from headrace.inbox.events import Event, Refused
from headrace.inbox.log import LogUnavailable
from headrace.inbox.stream_messages import MESSAGE_BYTES_MAX, Message, event_of_message
from headrace.inbox.stream_rules import NatsStream
from headrace.inbox.streams import RefusedMessage, StreamPosition, StreamProgress, StreamTables
from simulation.inbox_site import CAMPAIGN
from tests.inbox.builders import make_event, make_log

POSITION = StreamPosition(campaign=CAMPAIGN, stream="ORDERS", made_at="monday", sequence=3, written_at=7)


def refused(sequence: int, data: bytes = b"{") -> RefusedMessage:
    where = {"campaign": CAMPAIGN, "stream": "ORDERS", "made_at": "monday", "subject": "orders.a"}
    return RefusedMessage(**where, sequence=sequence, reason="it must be JSON", at=1, data=data)


def test_a_position_and_what_was_refused_are_kept_with_the_events_before_them(tmp_path: Path) -> None:
    with closing(make_log(tmp_path)) as log:
        progress = StreamProgress(position=POSITION, refused=[refused(2)])
        assert log.append([make_event("1"), make_event("3")], 5, progress=[progress]) == [True, True]
    with closing(StreamTables(tmp_path / "log")) as tables:
        assert tables.position(CAMPAIGN) == POSITION
        assert tables.refused() == tables.refused(CAMPAIGN) == [refused(2)]
        assert tables.refused("glossary") == []
        assert tables.num_refused(CAMPAIGN) == 1


def test_a_position_is_not_kept_if_its_events_are_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    with closing(make_log(tmp_path)) as log:
        log.append([], 5, progress=[StreamProgress(position=POSITION)])
        with monkeypatch.context() as patch:
            patch.setattr("headrace.inbox.log.keep_progress", full)
            with pytest.raises(LogUnavailable):
                log.append([make_event("4")], 6, progress=[StreamProgress(position=replace(POSITION, sequence=4))])
        assert log.append([make_event("4")], 7) == [True], "it was not taken with the position that was lost"
    with closing(StreamTables(tmp_path / "log")) as tables:
        assert tables.position(CAMPAIGN) == POSITION


def test_refused_messages_do_not_fill_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "_REFUSED_MAX", 3)
    with closing(make_log(tmp_path)) as log:
        for number in range(1, 6):
            progress = StreamProgress(position=POSITION, refused=[refused(number, b"x" * 20_000)])
            log.append([], 5, progress=[progress])
    with closing(StreamTables(tmp_path / "log")) as tables:
        kept = tables.refused()
    assert [one.sequence for one in kept] == [3, 4, 5]
    assert {len(one.data or b"") for one in kept} == {16_384}


def test_an_erasure_takes_what_refused_messages_hold(tmp_path: Path) -> None:
    """Nobody can tell whose it is."""
    with closing(make_log(tmp_path)) as log:
        log.append(
            [], 5, progress=[StreamProgress(position=POSITION, refused=[refused(2, b'{"name": "Ada Lovelace"')])]
        )
        log.erase(1, ErasedData(salt=bytes(16), digests=frozenset()))
    with closing(StreamTables(tmp_path / "log")) as tables:
        [left] = tables.refused()
    assert (left.sequence, left.data, left.reason) == (2, None, "erased")
    assert b"Lovelace" not in b"".join(file.read_bytes() for file in (tmp_path / "log").iterdir())


def test_a_log_from_before_has_read_no_stream(tmp_path: Path) -> None:
    make_log(tmp_path).close()
    with closing(sqlite3.connect(tmp_path / "log" / "inbox.db")) as connection:
        connection.executescript("DROP TABLE streams; DROP TABLE refused_messages")
    with closing(StreamTables(tmp_path / "log")) as tables:
        assert (tables.positions(), tables.refused(), tables.num_refused(CAMPAIGN)) == ([], [], 0)
    make_log(tmp_path).close()
    with closing(StreamTables(tmp_path / "log")) as tables:
        assert tables.position(CAMPAIGN) is None


def test_a_directory_without_a_log_is_told(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="There is no inbox's log in .*: name the directory"):
        StreamTables(tmp_path)


def read(data: object, **headers: str) -> Event | Refused:
    raw = data if isinstance(data, bytes) else json.dumps(data).encode()
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    message = Message(sequence=1, written_at=1, subject="orders.a", data=raw, headers=named)
    return event_of_message(message, campaign="orders", tenant="acme")


def test_a_message_is_an_event_in_json_of_the_streams_campaign() -> None:
    event = read({"id": "1", "source": "shop", "data": {"product": "a kettle"}})
    assert isinstance(event, Event)
    assert (event.campaign, event.id, event.tenant, event.data) == ("orders", "1", "acme", '{"product":"a kettle"}')


def test_a_messages_headers_may_be_the_attributes_and_the_message_the_data() -> None:
    headers = {
        "ce_id": "7",
        "Ce_Source": "shop%20one",
        "ce_specversion": "1.0",
        "ce_sequence": "12",
        "ce_tenant": "zoe",
    }
    event = read({"product": "a lamp"}, **headers, Nats_Msg_Id="x")
    assert isinstance(event, Event)
    assert (event.id, event.source, event.sequence, event.tenant) == ("7", "shop one", 12, "zoe")
    assert event.data == '{"product":"a lamp"}'


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"{", "it must be JSON"),
        ([1], "it must be a JSON object, got [1]"),
        (
            {"id": "1", "source": "s", "data": {}, "campaign": "other"},
            "campaign must be 'orders', whose stream this is",
        ),
        ({"id": "1", "data": {}}, "source must be a text that is not empty, got none"),
        (b" " * (MESSAGE_BYTES_MAX + 1), "it must have at most 8,388,608 bytes, got 8,388,609"),
    ],
    ids=["no JSON", "a list", "another campaign's", "no source", "large"],
)
def test_a_message_that_is_no_event_says_why(data: object, reason: str) -> None:
    found = read(data)
    assert isinstance(found, Refused)
    assert reason in found.reason
    assert found.retry_after_seconds is None


SERVERS = ("nats://127.0.0.1:4222",)


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"servers": ()}, "servers must name at least one"),
        ({"servers": ("http://a",)}, "servers must be nats:// or tls:// and a host, got 'http://a'"),
        ({"servers": ("nats://me:secret@a",)}, "servers must have no user or password, got .*many read this file"),
        ({"stream": "a.b"}, r"stream must be a name without blanks, dots, \*, >, / and .*, got 'a.b'"),
        ({"consumer": ""}, "consumer must be a name"),
        ({"subject": "a b"}, "subject must be one such as orders.>, got 'a b'"),
        ({"user": "me"}, "user and password_variable go together"),
        ({"user": "me", "password_variable": "P", "token_variable": "T"}, "one way to log in is enough"),
    ],
)
def test_what_no_stream_can_be_read_by_is_refused(given: dict[str, Any], reason: str) -> None:
    with pytest.raises(InvalidInput, match=reason) as refused:
        NatsStream(**({"servers": SERVERS, "stream": "ORDERS"} | given))
    assert "secret" not in str(refused.value)


def test_secrets_come_from_the_environment_and_files(tmp_path: Path) -> None:
    def stream(**login: Any) -> NatsStream:
        return NatsStream(servers=SERVERS, stream="ORDERS", **login)

    assert stream().login({}) == {}
    assert stream(user="me", password_variable="P").login({"P": "pw"}) == {"user": "me", "password": "pw"}
    assert stream(token_variable="T").login({"T": "abc"}) == {"token": "abc"}
    with pytest.raises(InvalidInput, match="The environment variable T \\(token_variable of a stream\\) is not set"):
        stream(token_variable="T").login({})
    missing = stream(credentials_file=str(tmp_path / "none.creds"))
    with pytest.raises(InvalidInput, match="none.creds \\(credentials_file of a stream\\) is not there"):
        missing.login({})
