"""Small JSON objects that decide (claims, pins, leases, records): written and read in one way, and checked each time.

Beside its own fields an object carries three:

| field | says |
|---|---|
| `nonce` | which writer made it: one that is told "already there" and finds its own nonce has won |
| `format` | by which rules its fields are read; a higher one than FORMAT is a newer Headrace's |
| `sha256` | digest over the canonical JSON of the object's key and of everything else in it, in whatever format |

The key is in the digest, so an object that was copied to another key is found as one that was changed is. Objects of
releases before this format have neither `format` nor `sha256`: their fields are checked, their content cannot be
(`headrace.store.standings` counts them). One of the two alone is damage, not age.

What the digest cannot see: an object that is gone whole. Numbered ones stand in a chain, which can
(`headrace.store.chain`).
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, is_dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

from headrace.errors import FormatTooNew, HandoffCorrupt, HeadraceError, InvalidInput
from headrace.store.objects import ObjectStore, canonical_json, new_nonce

if TYPE_CHECKING:
    from pydantic import TypeAdapter

T = TypeVar("T")

FORMAT = 1


@dataclass(frozen=True)
class Kind(Generic[T]):
    """What one kind of object holds, and what to do about a damaged one.

    Attributes:
        noun: what messages call it: "Claim".
        shape: a dataclass, or another type that pydantic can check. Ranges are annotations: `Annotated[int, Ge(0)]`.
            Fields that an object has beyond it are passed over.
        remedy: a sentence or two for whoever reads the error.
    """

    noun: str
    shape: type[T]
    remedy: str

    @cached_property
    def _adapter(self) -> "TypeAdapter[T]":
        # Here, because its import takes 100 ms of CPU: who reads handoffs alone never pays it.
        from pydantic import TypeAdapter

        return TypeAdapter(self.shape)

    def checked(self, raw: bytes) -> T:
        """The fields alone, whatever vouches for them.

        Raises:
            ValueError: a field is missing, or is not of its type or within its range.
        """
        from pydantic import ValidationError

        try:
            return self._adapter.validate_json(raw, strict=True)
        except ValidationError as error:
            first = error.errors(include_url=False, include_context=False, include_input=False)[0]
            where = ".".join(map(str, first["loc"])) or "it"
            raise ValueError(f"{where}: {first['msg']}") from error
        except HeadraceError as error:  # what the shape itself refuses
            raise ValueError(str(error).rstrip(".")) from error


@dataclass(frozen=True, kw_only=True)
class Made(Generic[T]):
    """The end of a race for one key: whether this writer won, and what the object now says."""

    won: bool
    value: T


def create_object(
    store: ObjectStore, key: str, kind: Kind[T], fields: T | Mapping[str, Any], *, nonce: str | None = None
) -> Made[T]:
    """Makes the object, unless it is there: whoever comes second reads what the first one wrote.

    Args:
        fields: a dataclass of the kind's shape, or its fields by name.

    Raises:
        InvalidInput: the fields are not what the kind says; nothing was written.
        HandoffCorrupt: another object is there, and is damaged.
    """
    nonce = nonce or new_nonce()
    raw = encode_object(key, kind, fields, nonce=nonce)
    try:
        value = kind.checked(raw)
    except ValueError as error:
        raise InvalidInput(f"{kind.noun} {key} cannot be written: {error}.") from error
    if store.create(key, raw):
        return Made(won=True, value=value)
    present = store.read(key)
    return Made(won=present == raw, value=decode_object(present, key, kind, store=store))


def read_object(store: ObjectStore, key: str, kind: Kind[T]) -> T:
    """The object under `key`, checked.

    Raises:
        ObjectMissing: there is none.
        HandoffCorrupt: it is not what its writer made, or says what cannot be.
        FormatTooNew: a newer Headrace wrote it.
    """
    return decode_object(store.read(key), key, kind, store=store)


def encode_object(key: str, kind: Kind[T], fields: T | Mapping[str, Any], *, nonce: str) -> bytes:
    """Raises: InvalidInput: a field has no one JSON form (NaN, or not JSON at all)."""
    own = asdict(fields) if is_dataclass(fields) and not isinstance(fields, type) else cast(Mapping[str, Any], fields)
    body = {**own, "nonce": nonce, "format": FORMAT}
    try:
        return canonical_json({**body, "sha256": _digest(key, body)})
    except (TypeError, ValueError) as error:
        raise InvalidInput(f"{kind.noun} {key} takes JSON values only: {error}.") from error


def decode_object(raw: bytes, key: str, kind: Kind[T], *, store: ObjectStore) -> T:
    """What `read_object` does with bytes that were read already."""
    try:
        if (format_number := check_envelope(raw, key)) is not None and format_number > FORMAT:
            raise FormatTooNew(
                f"{kind.noun} {store.uri(key)} has format {format_number}, this Headrace reads {FORMAT}. Upgrade "
                "Headrace to the version that wrote it, or a later one.",
                key=key,
            )
        return kind.checked(raw)
    except ValueError as error:
        raise HandoffCorrupt(f"{kind.noun} {store.uri(key)} is damaged: {error}. {kind.remedy}", key=key) from error


def check_envelope(raw: bytes, key: str) -> int | None:
    """The object's format; None: it was written before objects had one, and nothing vouches for its content.

    Raises:
        ValueError: it is no JSON object, or not the one that was written under this key.
    """
    try:
        body = json.loads(raw)
        if not isinstance(body, dict):
            raise ValueError(f"it holds {type(body).__name__}, not a JSON object")
        canonical_json(body)  # numbers that are none, and text that cannot be encoded
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    if "format" not in body and "sha256" not in body:
        return None
    stated, number = body.pop("sha256", None), body.get("format")
    if stated is None or number is None:
        raise ValueError(f"it has lost its {'sha256' if stated is None else 'format'}")
    if stated != (found := _digest(key, body)):
        raise ValueError(f"its content under this key has sha256 {found[:12]}…, it states {str(stated)[:12]}…")
    if type(number) is not int or number < 1:
        raise ValueError(f"its format is {number!r}")
    return number


# Told of a damaged object that the work at hand does not need, and goes on without.
Damaged = Callable[[HandoffCorrupt], object]


class PassedOver:
    """Keeps each damaged object that a reader went on without, once: `sentences` are for whoever reads the outcome."""

    def __init__(self) -> None:
        self._found: dict[str, HandoffCorrupt] = {}

    def __call__(self, error: HandoffCorrupt) -> None:
        self._found.setdefault(error.key or str(error), error)

    def with_those_of(self, other: "PassedOver") -> "PassedOver":
        for error in other._found.values():
            self(error)
        return self

    @property
    def keys(self) -> list[str]:
        return sorted(self._found)

    @property
    def sentences(self) -> list[str]:
        return [str(self._found[key]) for key in self.keys]


def _digest(key: str, body: Mapping[str, Any]) -> str:
    return hashlib.sha256(canonical_json({"key": key, "body": body})).hexdigest()
