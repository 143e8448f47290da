import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from annotated_types import Ge

from headrace.errors import FormatTooNew, HandoffCorrupt, InvalidInput, ObjectMissing
from headrace.store.local import LocalStore
from headrace.store.objects import canonical_json
from headrace.store.small_objects import Kind, create_object, read_object
from headrace.store.standings import examine, small_object_keys


@dataclass(frozen=True, kw_only=True)
class Ticket:
    holder: str
    outcome: Literal["open", "closed"]
    places: Annotated[int, Ge(0)]
    share: float
    names: tuple[str, ...] = ()
    note: str | None = None
    sizes: dict[str, int] = field(default_factory=dict)


TICKET = Kind("Ticket", Ticket, "Delete it: the next one is written anew.")
KEY = "tickets/7/00000001.json"
MADE = Ticket(holder="né", outcome="open", places=3, share=0.25, names=("a", "b"), sizes={"x": 1})


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path)


def overwrite(store: LocalStore, key: str, body: bytes) -> None:
    path = store.local_path(key)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    path.write_bytes(body)


def test_what_was_written_is_read_as_it_was_typed(store: LocalStore) -> None:
    made = create_object(store, KEY, TICKET, MADE)
    assert (made.won, made.value, read_object(store, KEY, TICKET)) == (True, MADE, MADE)
    body = json.loads(store.read(KEY))
    assert (body["format"], len(body["sha256"]), len(body["nonce"])) == (1, 64, 32)


def test_whoever_comes_second_reads_what_the_first_wrote(store: LocalStore) -> None:
    create_object(store, KEY, TICKET, MADE)
    late = create_object(store, KEY, TICKET, Ticket(holder="other", outcome="closed", places=0, share=1.0))
    assert (late.won, late.value) == (False, MADE)


def test_a_create_whose_reply_was_lost_still_counts_as_won(tmp_path: Path) -> None:
    class LosesReplies(LocalStore):
        def create(self, key: str, body: bytes, *, durable: bool = True) -> bool:
            super().create(key, body, durable=durable)
            return False

    assert create_object(LosesReplies(tmp_path), KEY, TICKET, MADE).won


def test_every_flipped_bit_and_every_cut_is_found_and_the_key_and_the_remedy_are_told(store: LocalStore) -> None:
    create_object(store, KEY, TICKET, MADE)
    raw = store.read(KEY)
    flipped = [bytes([*raw[:at], raw[at] ^ 1 << bit, *raw[at + 1 :]]) for at in range(len(raw)) for bit in range(8)]
    for damaged in [*flipped, *(raw[:end] for end in range(len(raw)))]:
        overwrite(store, KEY, damaged)
        with pytest.raises(HandoffCorrupt, match=r"Ticket file:///.*00000001\.json is damaged: .*Delete it") as error:
            read_object(store, KEY, TICKET)
        assert error.value.key == KEY


def test_an_object_copied_to_another_key_is_found(store: LocalStore) -> None:
    create_object(store, KEY, TICKET, MADE)
    store.create("tickets/8/00000001.json", store.read(KEY))
    with pytest.raises(HandoffCorrupt, match="its content under this key has sha256"):
        read_object(store, "tickets/8/00000001.json", TICKET)


def old(**changes: Any) -> bytes:
    """As an earlier release wrote it, and then what a test wants."""
    body = {"holder": "x", "outcome": "open", "places": 3, "share": 0.5, "names": ["a"], "nonce": "0" * 32}
    return json.dumps({**body, **changes}).encode()


def test_an_object_from_before_the_format_is_read_with_its_types_checked_and_listed_as_unverified(
    store: LocalStore,
) -> None:
    overwrite(store, KEY, old())
    assert read_object(store, KEY, TICKET) == Ticket(holder="x", outcome="open", places=3, share=0.5, names=("a",))
    create_object(store, "tickets/7/00000002.json", TICKET, MADE)
    overwrite(store, "tickets/7/00000003.json", b"{")
    overwrite(store, "tickets/7/.nfs0001", b"no object of ours")
    standings = [(one.key[-6:], one.standing) for one in examine(store, small_object_keys(store))]
    assert standings == [("1.json", "unverified"), ("2.json", "whole"), ("3.json", "damaged")]


NO_OLD_OBJECT: dict[str, tuple[Callable[[], bytes], str]] = {
    "a negative count": (lambda: old(places=-5), "places: Input should be greater than or equal to 0"),
    "a fraction of a count": (lambda: old(places=1.5), "places: Input should be a valid integer"),
    "true for a count": (lambda: old(places=True), "places: Input should be a valid integer"),
    "a number as text": (lambda: old(places="3"), "places: Input should be a valid integer"),
    "no number": (lambda: old(share=float("nan")), "Out of range float values are not JSON compliant"),
    "more than a float holds": (lambda: old().replace(b"0.5", b"1e400"), "Out of range float values"),
    "another word": (lambda: old(outcome="ajar"), "outcome: Input should be 'open' or 'closed'"),
    "text for a list": (lambda: old(names="a"), "names: Input should be a valid array"),
    "half a surrogate pair": (lambda: old(holder="\ud800"), "surrogates not allowed"),
    "a missing field": (lambda: old().replace(b'"share"', b'"chair"'), "share: Field required"),
    "nothing": (lambda: b"", "Expecting value"),
    "an empty object": (lambda: b"{}", "holder: Field required"),
    "a list": (lambda: b"[]", "it holds list, not a JSON object"),
    "null": (lambda: b"null", "it holds NoneType"),
    "nesting without end": (lambda: b"[" * 200_000, "it is nested too deeply"),
    "a format without a digest": (lambda: old(format=1), "it has lost its sha256"),
    "a digest without a format": (lambda: old(sha256="0" * 64), "it has lost its format"),
}


@pytest.mark.parametrize("case", NO_OLD_OBJECT)
def test_what_cannot_be_is_no_old_object(store: LocalStore, case: str) -> None:
    raw, message = NO_OLD_OBJECT[case]
    overwrite(store, KEY, raw())
    with pytest.raises(HandoffCorrupt, match=message):
        read_object(store, KEY, TICKET)


def test_a_newer_format_asks_for_an_upgrade_and_a_flipped_one_does_not(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    create_object(store, KEY, TICKET, MADE)
    overwrite(store, KEY, store.read(KEY).replace(b'"format":1', b'"format":9'))
    with pytest.raises(HandoffCorrupt, match="is damaged"):
        read_object(store, KEY, TICKET)
    store.delete(KEY)
    with monkeypatch.context() as newer:
        newer.setattr("headrace.store.small_objects.FORMAT", 2)
        create_object(store, KEY, TICKET, MADE)
    with pytest.raises(FormatTooNew, match=r"has format 2, this Headrace reads 1\. Upgrade Headrace") as error:
        read_object(store, KEY, TICKET)
    assert error.value.key == KEY


def test_what_could_not_be_read_back_is_not_written(store: LocalStore) -> None:
    for wrong in ({"share": float("inf")}, {"places": -1}, {"holder": "\ud800"}):
        with pytest.raises(InvalidInput, match=r"Ticket tickets/7/00000001\.json"):
            create_object(store, KEY, TICKET, {**json.loads(old()), **wrong})
    with pytest.raises(ObjectMissing):
        read_object(store, KEY, TICKET)


def test_a_shape_may_refuse_what_its_types_allow(store: LocalStore) -> None:
    @dataclass(frozen=True, kw_only=True)
    class Even:
        number: int

        def __post_init__(self) -> None:
            if self.number % 2:
                raise InvalidInput(f"An even number, please, got {self.number}.")

    overwrite(store, KEY, canonical_json({"number": 3}))
    with pytest.raises(HandoffCorrupt, match=r"is damaged: An even number, please, got 3\. Count again\."):
        read_object(store, KEY, Kind("Even", Even, "Count again."))
