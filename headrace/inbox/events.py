"""Reads events: CloudEvents 1.0 in JSON, with what an inbox needs as extension attributes.

| attribute | meaning |
|---|---|
| `id`, `source` | needed; together they name the event: whoever sends both again sends the same event |
| `campaign` | needed; who processes it |
| `data` | needed; a JSON object, whose keys are the columns of the campaign's prompts |
| `time` | RFC 3339 with its offset; without it the event happened when it arrived |
| `partitionkey` | events of one key are neighbours, in the order of `sequence` |
| `sequence` | a whole number, or one as text; without it 0 |
| `tenant` | who pays; without it the API key's name |
| `class` | `live`, `flex` or `batch` (without it) |
| `deadline` | as `time`; by when an answer is of use |

`specversion` must be 1.0 where it is given. Other attributes are accepted, as CloudEvents demands, and not kept.
A broken event is refused by itself, with its index and the reason; it never costs its neighbours.
"""

import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from pydantic_core import SchemaValidator, ValidationError, core_schema, from_json, to_json

from headrace.fairness import CLASSES
from headrace.inbox.rules import NAME_CHARACTERS_MAX

_SEQUENCE_END = 2**63
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
# Past this year Arrow and Python can still say the time; before 1970 nobody had an event to send.
_YEARS = range(1970, 9999)


class Event(NamedTuple):
    """One event. Times are microseconds since the epoch; `time` None: it happened when it arrived."""

    campaign: str
    id: str
    source: str
    time: int | None
    key: str
    sequence: int
    tenant: str
    event_class: str
    deadline: int | None
    data: str


@dataclass(frozen=True)
class Refused:
    """An event that is not taken. `retry_after_seconds`: it may be taken then; None: never as it is."""

    reason: str
    retry_after_seconds: float | None = None


class _Broken(ValueError):
    pass


def read_event(raw: bytes, *, tenant: str) -> Event | Refused:
    """The event in one JSON text. `tenant`: of an event that names none."""
    if (event := usual_event(raw, tenant=tenant)) is not None:
        return event
    try:
        content = from_json(raw, allow_inf_nan=False)
    except ValueError as error:
        return Refused(f"it must be JSON: {error}")
    return event_of(content, tenant=tenant)


def usual_event(raw: bytes, *, tenant: str) -> Event | None:
    """The event in one JSON text, if it is written as most are; None: `event_of` judges it.

    One look by compiled code in place of one by Python at each attribute: a third of what reading an event costs.
    """
    try:
        content = _USUAL.validate_json(raw)
        get = content.get
        text = to_json(content["data"])
        if b"NaN" in text or b"Infinity" in text:
            return None
        return Event(
            content["campaign"],
            content["id"],
            content["source"],
            _time("time", get("time")),
            get("partitionkey") or "",
            _sequence(get("sequence")),
            get("tenant") or tenant,
            get("class", "batch"),
            _time("deadline", get("deadline")),
            text.decode(),
        )
    except (ValidationError, _Broken):
        return None


def event_of(content: Any, *, tenant: str) -> Event | Refused:
    """As `read_event`, of JSON that was read."""
    if type(content) is not dict:
        return Refused(f"it must be a JSON object, got {_shown(content)}")
    get = content.get
    try:
        if (version := get("specversion")) not in (None, "1.0"):
            raise _Broken(f"specversion must be '1.0', got {_shown(version)}")
        event_class = get("class", "batch")
        if event_class not in CLASSES:
            raise _Broken(f"class must be one of {', '.join(CLASSES)}, got {_shown(event_class)}")
        return Event(
            _name("campaign", get("campaign")),
            _name("id", get("id")),
            _name("source", get("source")),
            _time("time", get("time")),
            _text("partitionkey", get("partitionkey")),
            _sequence(get("sequence")),
            _text("tenant", get("tenant")) or tenant,
            event_class,
            _time("deadline", get("deadline")),
            _data(content),
        )
    except _Broken as error:
        return Refused(str(error))


def lines_of(body: bytes) -> list[bytes]:
    """The events of a body of NDJSON; lines without any text are no events."""
    return [line for line in body.split(b"\n") if line and not line.isspace()]


def _name(attribute: str, value: Any) -> str:
    if not value or type(value) is not str:
        raise _Broken(f"{attribute} must be a text that is not empty, got {_shown(value)}")
    if len(value) > NAME_CHARACTERS_MAX:
        raise _Broken(f"{attribute} must have at most {NAME_CHARACTERS_MAX} characters, got {len(value)}")
    return value


def _text(attribute: str, value: Any) -> str:
    return "" if value is None or value == "" else _name(attribute, value)


def _sequence(value: Any) -> int:
    if value is None:
        return 0
    if type(value) is str and value.removeprefix("-").isdecimal() and len(value) <= 20:
        value = int(value)
    if type(value) is not int or not -_SEQUENCE_END <= value < _SEQUENCE_END:
        raise _Broken(f"sequence must be a whole number within ±2^63, got {_shown(value)}")
    return value


def _time(attribute: str, value: Any) -> int | None:
    if value is None:
        return None
    try:
        time = datetime.fromisoformat(value)
        if time.tzinfo is not None and time.year in _YEARS:
            return max((time - _EPOCH) // _MICROSECOND, 0)
    except (TypeError, ValueError):
        pass
    raise _Broken(
        f"{attribute} must be a time from 1970 on with its offset, such as 2026-11-22T12:53:44Z, got {_shown(value)}"
    )


def _data(content: dict[str, Any]) -> str:
    if type(data := content.get("data")) is not dict:
        got = "data_base64" if "data_base64" in content else _shown(data)
        raise _Broken(f"data must be a JSON object, got {got}")
    text = to_json(data)
    if b"Infinity" in text:
        _check_finite(text)
    return text.decode()


def _check_finite(text: bytes) -> None:
    """A number such as 1e400 is read as infinite, and JSON has no word for that."""

    def refuse(_: str) -> None:
        raise _Broken("data must have numbers that fit into 64 bits, got one that is too large, such as 1e400")

    json.loads(text, parse_constant=refuse)


def _usual() -> SchemaValidator:
    name = core_schema.str_schema(strict=True, min_length=1, max_length=NAME_CHARACTERS_MAX)
    text = core_schema.nullable_schema(core_schema.str_schema(strict=True, max_length=NAME_CHARACTERS_MAX))
    needed = {"id": name, "source": name, "campaign": name, "data": core_schema.dict_schema()}
    others: dict[str, core_schema.CoreSchema] = {
        "specversion": core_schema.literal_schema(["1.0", None]),
        "time": core_schema.nullable_schema(core_schema.str_schema(strict=True)),
        "partitionkey": text,
        "sequence": core_schema.any_schema(),
        "tenant": text,
        "class": core_schema.literal_schema([*CLASSES]),
        "deadline": core_schema.nullable_schema(core_schema.str_schema(strict=True)),
    }
    fields = {key: core_schema.typed_dict_field(schema) for key, schema in needed.items()}
    fields |= {key: core_schema.typed_dict_field(schema, required=False) for key, schema in others.items()}
    return SchemaValidator(core_schema.typed_dict_schema(fields, extra_behavior="ignore"))


_USUAL = _usual()


def _shown(value: Any) -> str:
    if value is None:
        return "none"
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:79]}…"
