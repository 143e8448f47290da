"""How the small objects of a store stand, as `headrace doctor` tells it."""

from pathlib import Path
from typing import Any

import pytest

from headrace.store.local import LocalStore
from headrace.store.objects import create_json
from headrace.store.small_objects import Kind, create_object
from headrace.store.standings import small_object_keys, standings_finding

TICKET = Kind("Ticket", dict[str, Any], "Delete it.")


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    """Small objects of two kinds, one of which nobody has heard of, and what is none."""
    store = LocalStore(tmp_path)
    for number in range(3):
        create_object(store, f"claims/a/{number:08d}.json", TICKET, {"n": number})
    create_object(store, "kind_of_tomorrow/x.json", TICKET, {"n": 1})
    for key in ("weights/parts/1/vocab.json", "handoff/a/p/v000001/manifest.json", "leases/h/1", "claims/a/1.made"):
        store.create(key, b"[]")
    (tmp_path / ".nodes").mkdir(exist_ok=True)
    (tmp_path / ".nodes/own.json").write_bytes(b"{")
    return store


def overwrite(store: LocalStore, key: str, body: bytes) -> None:
    path = store.local_path(key)
    path.chmod(0o600)
    path.write_bytes(body)


def test_every_directory_of_the_store_is_looked_through_and_no_large_object(store: LocalStore) -> None:
    names = [f"claims/a/{number:08d}.json" for number in range(3)]
    assert small_object_keys(store) == [*names, "kind_of_tomorrow/x.json"]


def test_a_store_whose_objects_are_whole_is_well(store: LocalStore) -> None:
    finding = standings_finding(store)
    assert (finding.level, finding.sentence) == ("ok", "4 looked at: 4 whole.")


def test_objects_of_earlier_releases_are_counted_and_are_no_fault(store: LocalStore) -> None:
    create_json(store, "claims/b/00000001.json", {"n": 1})
    finding = standings_finding(store)
    assert finding.level == "ok"
    assert finding.sentence == "5 looked at: 4 whole, 1 of earlier releases, which nothing vouches for."


def test_damaged_objects_fail_and_the_first_of_them_are_named(store: LocalStore) -> None:
    for number in range(3):
        overwrite(store, f"claims/a/{number:08d}.json", b"{")
    overwrite(store, "kind_of_tomorrow/x.json", b"[]")
    finding = standings_finding(store)
    assert finding.level == "fail"
    assert finding.sentence.startswith("4 looked at: 0 whole, 4 damaged. Damaged: claims/a/00000000.json (Expecting")
    assert "claims/a/00000002.json (" in finding.sentence
    assert "kind_of_tomorrow" not in finding.sentence
    assert finding.sentence.endswith(
        "; and 1 more. Only what needs one stops, and says what to do; bring them back from a copy of the store where "
        "there is one."
    )


@pytest.mark.parametrize(
    ("every", "looked"),
    [(False, "2 looked at, drawn from 4 (--all looks at every one): 2 whole."), (True, "4 looked at: 4 whole.")],
)
def test_a_large_store_is_looked_at_for_a_while_or_to_its_end(store: LocalStore, every: bool, looked: str) -> None:
    seconds = iter(range(0, 1000, 15))
    finding = standings_finding(store, every=every, seconds_now=lambda: float(next(seconds)))
    assert finding.sentence == looked


def test_an_empty_store_has_none(tmp_path: Path) -> None:
    assert standings_finding(LocalStore(tmp_path)).sentence == "0 looked at: 0 whole."
