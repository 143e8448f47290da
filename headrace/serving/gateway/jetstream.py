"""One connection to NATS JetStream, for a durable pull consumer: the one file that speaks with it.

JetStream's API is JSON over requests; `nats-py` carries these. Its own pull subscriptions state no limit in bytes, and
hide the numbers of deliveries, which tell whether one is missing.
"""

import base64
import binascii
import ssl
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeVar

import nats
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.errors import Error as NatsError
from nats.errors import NoRespondersError
from pydantic_core import to_json

from headrace.errors import InvalidInput, Transient
from headrace.inbox.stream_messages import MESSAGE_BYTES_MAX, Message
from headrace.inbox.stream_reading import StreamFacts
from headrace.inbox.stream_rules import NatsStream
from headrace.store.small_objects import Record

_CONNECT_SECONDS, _ANSWER_SECONDS = 5.0, 10.0
# A pull waits so long for the first message; the server says every few seconds that it still does.
_LINGER_SECONDS, _HEARTBEAT_SECONDS = 30.0, 5.0
_SILENCE_SECONDS = 3 * _HEARTBEAT_SECONDS
# A message without an acknowledgement is delivered again after this.
_ACK_SECONDS = 60.0
# What processes that were killed have of it comes again after that; meanwhile others must go on.
_NUM_UNDER_WAY_MAX = 20_000
_NOT_FOUND = 404
_NANOSECONDS = 1_000_000_000
_ACKNOWLEDGED = "$JS.ACK."
_HEADERS_BEGIN = b"NATS/1.0"
_T = TypeVar("_T")


class JetStreamUnavailable(Transient):
    """It does not answer, refuses, or the connection is gone."""


@dataclass(frozen=True, kw_only=True)
class _State:
    first_seq: int
    last_seq: int


@dataclass(frozen=True, kw_only=True)
class _StreamConfig:
    retention: str = "limits"


@dataclass(frozen=True, kw_only=True)
class _Stream:
    created: str
    state: _State
    config: _StreamConfig


@dataclass(frozen=True, kw_only=True)
class _Delivered:
    consumer_seq: int
    stream_seq: int


@dataclass(frozen=True, kw_only=True)
class _ConsumerConfig:
    ack_policy: str = "none"
    deliver_subject: str | None = None
    filter_subject: str | None = None
    filter_subjects: tuple[str, ...] = ()
    max_deliver: int = -1


@dataclass(frozen=True, kw_only=True)
class _Consumer:
    config: _ConsumerConfig
    delivered: _Delivered
    num_pending: int = 0


@dataclass(frozen=True, kw_only=True)
class _Stored:
    seq: int
    time: str
    subject: str
    data: str = ""
    hdrs: str = ""


@dataclass(frozen=True, kw_only=True)
class _Found:
    message: _Stored


@dataclass(frozen=True, kw_only=True)
class _Problem:
    code: int = 0
    err_code: int = 0
    description: str = ""


@dataclass(frozen=True, kw_only=True)
class _Answer:
    error: _Problem | None = None


_ANSWER = Record("Answer of JetStream", _Answer)
_STREAM, _CONSUMER = Record("Stream", _Stream), Record("Consumer", _Consumer)
_FOUND = Record("Message", _Found)


@dataclass(frozen=True, kw_only=True)
class Delivered:
    """What a consumer has delivered: `num` deliveries, to `sequence` of its stream. `num_behind`: messages after it."""

    num: int
    sequence: int
    num_behind: int


@asynccontextmanager
async def connected(stream: NatsStream, consumer: str, login: Mapping[str, str]) -> AsyncIterator["JetStream"]:
    """A connection that ends with the block, or by itself: whoever has it connects again.

    Raises:
        JetStreamUnavailable: no server answers.
    """
    options: dict[str, Any] = {**login}
    if stream.ca_file is not None:
        options["tls"] = _tls(stream.ca_file)
    try:
        client = await nats.connect(
            list(stream.servers),
            name=f"headrace {consumer}",
            allow_reconnect=False,
            connect_timeout=int(_CONNECT_SECONDS),
            error_cb=_passed_over,
            **options,
        )
    except (NatsError, OSError, TimeoutError, ValueError) as error:
        raise JetStreamUnavailable(f"NATS does not answer: {type(error).__name__}: {error}") from error
    try:
        inbox = client.new_inbox()
        yield JetStream(client, await client.subscribe(f"{inbox}.*"), inbox, stream, consumer)
    except (NatsError, TimeoutError) as error:
        raise JetStreamUnavailable(f"the connection to NATS is gone: {type(error).__name__}") from error
    finally:
        await client.close()


class JetStream:
    """Every method raises JetStreamUnavailable or an error of NATS: then nothing more is to be had of it."""

    def __init__(
        self, client: Client, subscription: Subscription, inbox: str, stream: NatsStream, consumer: str
    ) -> None:
        self._client, self._subscription, self._inbox = client, subscription, inbox
        self._stream, self._consumer = stream, consumer
        self._num_pulls = 0

    async def facts(self, sequence: int = 0) -> StreamFacts:
        """Args: sequence: of the message whose time is wanted; 0: none."""
        found = await self._ask(f"STREAM.INFO.{self._stream.stream}", {}, _STREAM)
        written_at = None
        if sequence and found.state.first_seq <= sequence <= found.state.last_seq:
            stored = await self._stored({"seq": sequence})
            written_at = _nanoseconds(stored.time) if stored else None
        return StreamFacts(
            name=self._stream.stream,
            made_at=found.created,
            # Of a stream that never had a message it is 0.
            first=max(found.state.first_seq, 1),
            last=found.state.last_seq,
            is_kept=found.config.retention == "limits",
            written_at=written_at,
        )

    async def delivered(self, *, after: int, is_kept: bool) -> Delivered:
        """What the consumer has delivered; makes it if there is none.

        Args:
            after: a new one begins behind this message.
            is_kept: as in `StreamFacts`.

        Raises: InvalidInput: there is one that cannot be read by.
        """
        path = f"{self._stream.stream}.{self._consumer}"
        found = await self._ask(f"CONSUMER.INFO.{path}", {}, _CONSUMER, may_lack=True)
        if found is None:
            config: dict[str, Any] = {
                "durable_name": self._consumer,
                "name": self._consumer,
                "description": "Headrace's inbox",
                "ack_policy": "explicit",
                "ack_wait": int(_ACK_SECONDS * _NANOSECONDS),
                "max_ack_pending": _NUM_UNDER_WAY_MAX,
                "replay_policy": "instant",
                # A stream that drops what was acknowledged delivers all that it has, or nothing.
                "deliver_policy": "by_start_sequence" if is_kept and after else "all",
            }
            if is_kept and after:
                config["opt_start_seq"] = after + 1
            if self._stream.subject is not None:
                config["filter_subject"] = self._stream.subject
            body = {"stream_name": self._stream.stream, "config": config}
            found = await self._ask(f"CONSUMER.DURABLE.CREATE.{path}", body, _CONSUMER)
        self._check(found.config)
        delivered = found.delivered
        return Delivered(num=delivered.consumer_seq, sequence=delivered.stream_seq, num_behind=found.num_pending)

    async def remove_consumer(self) -> None:
        await self._ask(f"CONSUMER.DELETE.{self._stream.stream}.{self._consumer}", {}, _ANSWER, may_lack=True)

    def _check(self, config: _ConsumerConfig) -> None:
        filters = config.filter_subjects or ((config.filter_subject,) if config.filter_subject else ())
        wanted = () if self._stream.subject is None else (self._stream.subject,)
        wrong = [
            f"{name} {got}, wanted {expected}"
            for name, got, expected in (
                ("ack_policy", config.ack_policy, "explicit"),
                ("deliver_subject", config.deliver_subject, None),
                ("filter_subjects", list(filters), list(wanted)),
                ("max_deliver", config.max_deliver, -1),
            )
            if got != expected
        ]
        if wrong:
            raise InvalidInput(
                f"Consumer {self._consumer} of stream {self._stream.stream} has {'; '.join(wrong)}. Delete it, or name "
                "another one (consumer)."
            )

    async def next_stored(self, after: int) -> Message | None:
        """The first message behind this one, read from the stream itself; None: there is none."""
        stored = await self._stored({"seq": after + 1, "next_by_subj": self._stream.subject or ">"})
        if stored is None:
            return None
        return Message(
            sequence=stored.seq,
            written_at=_nanoseconds(stored.time),
            subject=stored.subject,
            data=_decoded(stored.data),
            headers=_headers(_decoded(stored.hdrs)),
        )

    async def pull(self, num_max: int) -> list[Message]:
        """Up to so many deliveries, and so many bytes as a message may have, as soon as there are some.

        Waits for half a minute; none: nothing came.
        """
        size = max(MESSAGE_BYTES_MAX, 2 * self._client.max_payload)
        found = await self._pulled({"batch": num_max, "max_bytes": size, "no_wait": True})
        if found:
            return found
        waits = {"expires": int(_LINGER_SECONDS * _NANOSECONDS)}
        waits["idle_heartbeat"] = int(_HEARTBEAT_SECONDS * _NANOSECONDS)
        return await self._pulled({"batch": 1, "max_bytes": size, **waits})

    async def acknowledge(self, messages: Sequence[Message], *, refused: bool = False) -> None:
        """Args: refused: nobody is to deliver them again, although they were not taken."""
        for message in messages:
            if message.reply:
                await self._client.publish(message.reply, Msg.Ack.Term if refused else Msg.Ack.Ack)

    async def _pulled(self, request: Mapping[str, Any]) -> list[Message]:
        self._num_pulls += 1
        reply = f"{self._inbox}.{self._num_pulls}"
        subject = f"$JS.API.CONSUMER.MSG.NEXT.{self._stream.stream}.{self._consumer}"
        await self._client.publish(subject, to_json(request), reply)
        found: list[Message] = []
        while len(found) < request["batch"]:
            came = await self._next()
            status = (came.headers or {}).get("Status", "")
            # Only what is delivered is to be acknowledged; a message may have a header of that name itself.
            if came.reply.startswith(_ACKNOWLEDGED):
                found.append(_message(came))
                if not found[-1].num_behind and request.get("no_wait"):
                    break
            elif came.subject != reply or status == "100":
                continue  # of a pull before, or only a sign of life
            elif status in ("404", "408"):
                break
            elif status == "409" and found:
                break  # as many bytes as were asked for
            else:
                said = (came.headers or {}).get("Description", "")
                raise JetStreamUnavailable(f"JetStream delivers nothing: {status} {said}")
        return found

    async def _next(self) -> Msg:
        try:
            return await self._subscription.next_msg(timeout=_SILENCE_SECONDS)
        except TimeoutError as error:
            raise JetStreamUnavailable(f"NATS has said nothing for {_SILENCE_SECONDS:.0f} s") from error

    async def _stored(self, wanted: Mapping[str, Any]) -> _Stored | None:
        found = await self._ask(f"STREAM.MSG.GET.{self._stream.stream}", wanted, _FOUND, may_lack=True)
        return None if found is None else found.message

    async def _ask(self, subject: str, body: Mapping[str, Any], record: Record[_T], *, may_lack: bool = False) -> Any:
        """What the API answers, checked; None: it has no such thing, where that `may_lack`."""
        try:
            answer = await self._client.request(f"$JS.API.{subject}", to_json(body), timeout=_ANSWER_SECONDS)
            problem = _ANSWER.checked(answer.data).error
            if problem is None:
                return record.checked(answer.data)
        except NoRespondersError as error:
            raise JetStreamUnavailable("the server has no JetStream, or this account has none") from error
        except ValueError as error:
            raise JetStreamUnavailable(f"JetStream answers what is not understood: {error}") from error
        if may_lack and problem.code == _NOT_FOUND:
            return None
        raise JetStreamUnavailable(f"JetStream refuses: {problem.description or problem.code}")


async def _passed_over(_: Exception) -> None:
    """What fails is said by whoever has the connection; nats-py would write it to standard error."""


def _message(came: Msg) -> Message:
    """Of its reply's subject, `$JS.ACK.….NUM_DELIVERED.SEQUENCE.DELIVERY.TIME.PENDING`, with more behind it or not.

    Raises: JetStreamUnavailable: it is none.
    """
    tokens = came.reply.split(".")
    # Servers with domains say the domain and the account, too, and a random word at the end.
    numbers = tokens[5:9] if len(tokens) == 9 else tokens[7:11]
    try:
        sequence, delivery, written_at, num_behind = map(int, numbers)
    except ValueError as error:
        raise JetStreamUnavailable(f"JetStream delivers with a reply that is not understood: {came.reply}") from error
    return Message(
        sequence=sequence,
        written_at=written_at,
        subject=came.subject,
        data=came.data,
        headers=dict(came.headers or {}),
        delivery=delivery,
        reply=came.reply,
        num_behind=num_behind,
    )


def _nanoseconds(written: str) -> int:
    """Of `2026-11-22T12:53:44.123456789Z`, since the epoch. Raises: JetStreamUnavailable: it is no such time."""
    seconds, _, rest = written.removesuffix("Z").partition(".")
    try:
        whole = int(datetime.fromisoformat(seconds).replace(tzinfo=UTC).timestamp())
        return whole * _NANOSECONDS + int(rest.ljust(9, "0")[:9])
    except ValueError as error:
        raise JetStreamUnavailable(f"JetStream says a time that is not understood: {written!r:.80}") from error


def _decoded(text: str) -> bytes:
    """Raises: JetStreamUnavailable: it is no base64."""
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise JetStreamUnavailable("JetStream gives a message that is no base64") from error


def _headers(raw: bytes) -> dict[str, str]:
    """Of a stored message: `NATS/1.0` and a header a line."""
    found: dict[str, str] = {}
    for line in raw.removeprefix(_HEADERS_BEGIN).split(b"\r\n"):
        name, colon, value = line.decode("utf-8", "replace").partition(":")
        if colon:
            found[name.strip()] = value.strip()
    return found


def _tls(ca_file: str) -> ssl.SSLContext:
    """Raises: InvalidInput: the file holds no certificates."""
    try:
        return ssl.create_default_context(cafile=ca_file)
    except (OSError, ssl.SSLError) as error:
        raise InvalidInput(f"The file {ca_file} (ca_file of a stream) cannot be used: {error}.") from error
