"""Live evidence: what gateways measured counts once, whatever the store and its gateways do."""

import json
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.clock import FixedClock
from headrace.errors import HandoffCorrupt, InvalidInput, StoreUnavailable
from headrace.rollout.live_evidence import OTHER_CLIENTS, EvidenceWriter, read_drawn, read_live, totals
from headrace.rollout.sequential.samples import Sample
from simulation.disk import Kept
from tests.handoff.simulated_store import MemoryStore
from tests.serving.builders import CANDIDATE, SERVICE, STABLE, TroubledStore

# Of a unit of which a test says nothing more.
ONE: Any = {"client": "ana", "entry": 2}


def make_writer(store: object, gateway: str = "g1") -> EvidenceWriter:
    return EvidenceWriter(cast(Any, store), SERVICE, gateway, FixedClock())


def read(store: object, trial: int = 2) -> dict[str, dict[str, Sample]]:
    return read_live(cast(Any, store), SERVICE, trial)


def test_a_reader_adds_up_what_all_gateways_measured() -> None:
    store = MemoryStore(FixedClock())
    for gateway, values in (("g1", (1.0, 3.0)), ("g2", (5.0,))):
        writer = make_writer(store, gateway)
        for value in values:
            writer.record(2, CANDIDATE, {"latency_seconds": value}, **ONE)
        writer.record(2, STABLE, {"error": 0.0}, **ONE)
        writer.flush()
    assert read(store) == {
        CANDIDATE: {"latency_seconds": Sample.of_values([1.0, 3.0, 5.0])},
        STABLE: {"error": Sample.of_counts(2, 0)},
    }


def test_a_snapshot_replaces_the_one_before_it_and_an_idle_flush_writes_nothing() -> None:
    store = MemoryStore(FixedClock())
    writer = make_writer(store)
    for _ in range(3):
        writer.record(2, CANDIDATE, {"error": 1.0}, **ONE)
        writer.flush()
        writer.flush()
    assert list(store.bodies) == ["rollout/glossary/evidence/00000002/g1/00000003.json"]
    assert read(store)[CANDIDATE]["error"] == Sample.of_counts(3, 3)


def test_a_snapshot_whose_reply_was_lost_is_followed_by_one_that_holds_more() -> None:
    store = TroubledStore()
    writer = make_writer(store)
    writer.record(2, CANDIDATE, {"error": 1.0}, **ONE)
    store.fates.append("lost")
    with pytest.raises(StoreUnavailable):
        writer.flush()
    assert read(store)[CANDIDATE]["error"].num == 1
    writer.record(2, CANDIDATE, {"error": 0.0}, **ONE)
    writer.flush()
    assert read(store)[CANDIDATE]["error"] == Sample.of_counts(2, 1)
    assert len(store.store.bodies) == 1


def test_a_refused_snapshot_is_written_by_the_next_flush() -> None:
    store = TroubledStore()
    writer = make_writer(store)
    writer.record(2, CANDIDATE, {"error": 1.0}, **ONE)
    store.fates.append("refused")
    with pytest.raises(StoreUnavailable):
        writer.flush()
    assert read(store) == {}
    writer.flush()
    assert read(store)[CANDIDATE]["error"].num == 1


def test_trials_do_not_mix_and_the_last_one_is_measured_until_its_units_have_ended() -> None:
    store = MemoryStore(FixedClock())
    writer = make_writer(store)
    for trial in (2, 7, 2, 12, 2):
        writer.record(trial, STABLE, {"error": 0.0}, **ONE)
        writer.flush()
    assert [read(store, trial)[STABLE]["error"].num for trial in (2, 7, 12)] == [2, 1, 1]


def test_units_outside_of_a_trial_are_no_evidence() -> None:
    store = MemoryStore(FixedClock())
    writer = make_writer(store)
    writer.record(0, STABLE, {"error": 0.0}, **ONE)
    writer.flush()
    assert not store.bodies


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_value_that_no_sum_can_hold_is_refused(value: float) -> None:
    with pytest.raises(InvalidInput, match="Evidence must be finite numbers, got cost="):
        make_writer(MemoryStore(FixedClock())).record(2, STABLE, {"cost": value}, **ONE)


def test_a_snapshot_that_is_replaced_while_it_is_read_is_looked_for_again() -> None:
    store = MemoryStore(FixedClock())
    writer = make_writer(store)
    writer.record(2, STABLE, {"error": 0.0}, **ONE)
    writer.flush()

    def replace_once(operation: str) -> None:
        if operation.startswith("read"):
            reader.before_each = lambda operation: None
            writer.record(2, STABLE, {"error": 0.0}, **ONE)
            writer.flush()

    reader = store.seen_by(replace_once)
    assert read(reader)[STABLE]["error"].num == 2


@settings(derandomize=True)
@given(
    st.lists(
        st.tuples(
            st.integers(0, 1),
            st.sampled_from(["record", "record", "flush", "restart"]),
            st.sampled_from(["well", "well", "refused", "lost", "told there"]),
        ),
        max_size=40,
    )
)
def test_nothing_is_ever_counted_twice_and_nothing_is_lost_but_by_a_kill(calls: list[tuple[int, str, str]]) -> None:
    disk = MemoryStore(FixedClock())
    stores = [TroubledStore(disk), TroubledStore(disk)]
    writers = [make_writer(store, f"g{number}") for number, store in enumerate(stores)]
    num_recorded, num_certain, since = 0, 0, [0, 0]
    for number, (who, kind, fate) in enumerate(calls):
        if kind == "record":
            writers[who].record(2, STABLE, {"error": 0.0}, **ONE)
            num_recorded += 1
            since[who] += 1
        elif kind == "restart":
            writers[who] = make_writer(stores[who], f"restart {number}")
            since[who] = 0
        else:
            stores[who].fates.append(fate)
            try:
                writers[who].flush()
                num_certain, since[who] = num_certain + since[who], 0
            except StoreUnavailable:
                pass
            stores[who].fates.clear()
        num_read = read(disk).get(STABLE, {}).get("error", Sample()).num
        assert num_certain <= num_read <= num_recorded
    assert all(json.loads(body)["trial"] == 2 for body, *_ in disk.bodies.values())


# Whose units they were


def test_clients_and_entries_are_told_apart_and_added_up_over_gateways() -> None:
    store = MemoryStore(FixedClock())
    for gateway in ("g1", "g2"):
        writer = make_writer(store, gateway)
        writer.record(2, STABLE, {"error": 1.0}, client="ana", entry=2)
        writer.record(2, STABLE, {"error": 0.0}, client="ana", entry=3)
        writer.record(2, CANDIDATE, {"error": 0.0}, client="ben", entry=3)
        writer.flush()
    found = read_drawn(cast(Any, store), SERVICE, 2)
    assert found == {
        ("ana", 2): {STABLE: {"error": Sample.of_counts(2, 2)}},
        ("ana", 3): {STABLE: {"error": Sample.of_counts(2, 0)}},
        ("ben", 3): {CANDIDATE: {"error": Sample.of_counts(2, 0)}},
    }


def test_clients_beyond_a_number_count_as_one_and_the_largest_keep_their_own_sums() -> None:
    store = MemoryStore(FixedClock())
    for gateway in ("g1", "g2"):
        writer = make_writer(store, gateway)
        for number in range(100):
            for _ in range(2 if number == 7 else 1):
                writer.record(2, STABLE, {"error": 0.0}, client=f"{gateway} {number}", entry=2)
        writer.flush()
    found = read_drawn(cast(Any, store), SERVICE, 2)
    clients = {client for client, _ in found}
    assert len(clients) == 64
    assert {"g1 7", "g2 7", OTHER_CLIENTS} <= clients
    assert totals(found)[STABLE]["error"].num == 202


def test_sums_of_a_release_that_knew_no_clients_count_as_one_more_client() -> None:
    store = MemoryStore(FixedClock())
    sums = {"num": 40, "total": 2.0, "total_squares": 2.0}
    old = {"trial": 2, "gateway": "old", "seq": 7, "at": "2026-11-01T00:00:00Z", "arms": {STABLE: {"error": sums}}}
    store.create("rollout/glossary/evidence/00000002/old/00000007.json", json.dumps(old | {"nonce": "n"}).encode())
    writer = make_writer(store)
    writer.record(2, STABLE, {"error": 0.0}, **ONE)
    writer.flush()
    assert read_drawn(cast(Any, store), SERVICE, 2) == {
        ("(before clients were told apart)", 0): {STABLE: {"error": Sample.of_counts(40, 2)}},
        ("ana", 2): {STABLE: {"error": Sample.of_counts(1, 0)}},
    }


@pytest.mark.parametrize(
    ("old", "new"),
    [(b'"num":1', b'"num":2'), (b"ana", b"ben"), (b"{", b""), (b'"sha256"', b'"sha255"')],
    ids=["a count", "a name", "torn", "its digest's name"],
)
def test_a_damaged_snapshot_is_left_out_and_named(old: bytes, new: bytes) -> None:
    store = MemoryStore(FixedClock())
    for gateway in ("g1", "g2"):
        writer = make_writer(store, gateway)
        writer.record(2, STABLE, {"error": 0.0}, **ONE)
        writer.flush()
    key = "rollout/glossary/evidence/00000002/g1/00000001.json"
    store.bodies[key] = Kept(store.bodies[key].body.replace(old, new, 1))
    damaged: list[HandoffCorrupt] = []
    found = read_live(cast(Any, store), SERVICE, 2, damaged=damaged.append)
    assert found[STABLE]["error"].num == 1
    [error] = damaged
    assert error.key == key


@pytest.mark.parametrize(
    "sums",
    [
        {"num": -5, "total": 1.0, "total_squares": 1.0},
        {"num": 5, "total": 1e308, "total_squares": 1.0},
        {"num": 5, "total": 7.0, "total_squares": 49.0},
        {"num": "five", "total": 1.0, "total_squares": 1.0},
    ],
)
def test_sums_that_no_units_have_are_left_out(sums: dict[str, Any]) -> None:
    store = MemoryStore(FixedClock())
    old = {"trial": 2, "gateway": "old", "seq": 1, "at": "2026-11-01T00:00:00Z", "arms": {STABLE: {"error": sums}}}
    store.create("rollout/glossary/evidence/00000002/old/00000001.json", json.dumps(old | {"nonce": "n"}).encode())
    damaged: list[HandoffCorrupt] = []
    assert read_live(cast(Any, store), SERVICE, 2, damaged=damaged.append) == {}
    assert len(damaged) == 1
