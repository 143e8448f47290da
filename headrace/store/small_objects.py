"""Small JSON objects that record decisions (claims, pins, leases, records), written and checked in one way.

Every object carries three fields beside its own:

| field | meaning |
|---|---|
| `nonce` | names its writer: a writer that is told "already there" and finds its own nonce has won |
| `format` | the rules for reading its fields; a higher one than FORMAT comes from a newer Headrace |
| `sha256` | digest over the canonical JSON of the object's key and all its other content, in any format |

The digest covers the key, so a copy under another key is found as a changed object is. Objects from releases before
this format have neither `format` nor `sha256`: their fields are checked, their content cannot be
(`headrace.store.standings` counts them). An object with only one of the two is damaged, not old.

The digest cannot show that a whole object is gone. A chain of numbered objects can (`headrace.store.chain`).
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
class Record(Generic[T]):
    """The contents of one kind of JSON text: small objects, run tags, data between processes.

    Attributes:
        noun: the kind's name in messages: "Claim".
        shape: a dataclass, or another type that pydantic can check. Ranges are annotations: `Annotated[int, Ge(0)]`.
            Further fields of an object are ignored.
    """

    noun: str
    shape: type[T]

    @cached_property
    def _adapter(self) -> "TypeAdapter[T]":
        # Imported here: it takes 100 ms of CPU, which a process that only reads handoffs never pays.
        from pydantic import TypeAdapter

        return TypeAdapter(self.shape)

    def checked(self, raw: bytes | str) -> T:
        """Checks the fields alone, not a digest.

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
        except HeadraceError as error:  # the shape's own refusal
            raise ValueError(str(error).rstrip(".")) from error


@dataclass(frozen=True)
class Kind(Record[T]):
    """Small objects of one kind.

    Attributes:
        remedy: a sentence or two of advice for the reader of an error about a damaged one.
    """

    remedy: str


@dataclass(frozen=True, kw_only=True)
class Made(Generic[T]):
    """The outcome of a race for one key: whether this writer won, and the object's present content."""

    won: bool
    value: T


def create_object(
    store: ObjectStore,
    key: str,
    kind: Kind[T],
    fields: T | Mapping[str, Any],
    *,
    nonce: str | None = None,
    durable: bool = True,
) -> Made[T]:
    """Creates the object unless it exists; a later writer reads what the first one wrote.

    Args:
        fields: a dataclass of the kind's shape, or its fields by name.
        durable: as `ObjectStore.create`.

    Raises:
        InvalidInput: the fields do not fit the kind; nothing was written.
        HandoffCorrupt: another object exists there, and is damaged.
    """
    nonce = nonce or new_nonce()
    raw = encode_object(key, kind, fields, nonce=nonce)
    try:
        value = kind.checked(raw)
    except ValueError as error:
        raise InvalidInput(f"{kind.noun} {key} cannot be written: {error}.") from error
    if store.create(key, raw, durable=durable):
        return Made(won=True, value=value)
    present = store.read(key)
    return Made(won=present == raw, value=decode_object(present, key, kind, store=store))


def read_object(store: ObjectStore, key: str, kind: Kind[T]) -> T:
    """Reads and checks the object under `key`.

    Raises:
        ObjectMissing: the object does not exist.
        HandoffCorrupt: it differs from what its writer wrote, or its fields are invalid.
        FormatTooNew: a newer Headrace wrote it.
    """
    return decode_object(store.read(key), key, kind, store=store)


def replace_object(store: ObjectStore, key: str, kind: Kind[T], change: Callable[[T], T]) -> bool:
    """Gives the object the content that `change` makes of its present one; again, if another erasure was faster.

    For erasures alone, as `ObjectStore.replace`. False: it is as it was.

    Raises: as `read_object`.
    """
    while True:
        raw = store.read(key)
        present = decode_object(raw, key, kind, store=store)
        if (changed := change(present)) == present:
            return False
        if store.replace(key, encode_object(key, kind, changed, nonce=new_nonce()), of=raw):
            return True


def encode_object(key: str, kind: Kind[T], fields: T | Mapping[str, Any], *, nonce: str) -> bytes:
    """Raises: InvalidInput: a field has no unique JSON form (NaN), or no JSON form."""
    own = asdict(fields) if is_dataclass(fields) and not isinstance(fields, type) else cast(Mapping[str, Any], fields)
    body = {**own, "nonce": nonce, "format": FORMAT}
    try:
        return canonical_json({**body, "sha256": _digest(key, body)})
    except (TypeError, ValueError) as error:
        raise InvalidInput(f"{kind.noun} {key} takes JSON values only: {error}.") from error


def decode_object(raw: bytes, key: str, kind: Kind[T], *, store: ObjectStore) -> T:
    """As `read_object`, for bytes that were read already."""
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
    """The object's format; None: it is older than formats, and nothing proves its content.

    Raises:
        ValueError: it is not a JSON object, or not the one that was written under this key.
    """
    try:
        body = json.loads(raw)
        if not isinstance(body, dict):
            raise ValueError(f"it holds {type(body).__name__}, not a JSON object")
        canonical_json(body)  # refuses NaN, and text that cannot be encoded
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


# Called with a damaged object that the present work does not need, and continues without.
Damaged = Callable[[HandoffCorrupt], object]


class PassedOver:
    """Keeps each damaged object that a reader skipped, once: `sentences` are for people who read the result."""

    def __init__(self) -> None:
        self._found: dict[str, HandoffCorrupt] = {}

    def __call__(self, error: HandoffCorrupt) -> None:
        self._found.setdefault(error.key or str(error), error)

    @property
    def keys(self) -> list[str]:
        return sorted(self._found)

    @property
    def sentences(self) -> list[str]:
        return [str(self._found[key]) for key in self.keys]


def _digest(key: str, body: Mapping[str, Any]) -> str:
    return hashlib.sha256(canonical_json({"key": key, "body": body})).hexdigest()
