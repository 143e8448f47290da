"""kill -9 of a controller at every write of a rollout: started again, it ends as one that was never killed."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from headrace.clock import FixedClock
from headrace.rollout.journal import Entry, Journal
from headrace.rollout.states import fold
from headrace.store.local import LocalStore

pytestmark = pytest.mark.process

CRASHING_CONTROLLER = Path(__file__).parent / "crashing_controller.py"
EVENTS = ["initialized", "proposed", "started", "advanced", "promoted", "proposed", "started", "aborted"]


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """The whole rollout first, then one store for each side of each write."""
    directory = tmp_path_factory.mktemp("rollouts")
    command = [sys.executable, str(CRASHING_CONTROLLER), str(directory)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def entries_of(directory: str) -> tuple[Entry, ...]:
    return Journal(LocalStore(Path(directory)), "glossary", FixedClock()).entries()


def end_of(directory: str) -> dict[str, Any]:
    """All that a rollout leaves, without what clocks, nonces and process ids say."""
    store, entries = LocalStore(Path(directory)), entries_of(directory)
    return {
        "entries": [(entry.number, entry.event, entry.fields) for entry in entries],
        "sets": store.list("version_sets"),
        "prepared": store.list("rollout/glossary/prepared"),
        "aliases": json.loads((Path(directory) / "aliases.json").read_text()),
    }


def test_the_rollout_goes_through_every_kind_of_write(stores: list[dict[str, Any]]) -> None:
    assert [entry.event for entry in entries_of(stores[0]["directory"])] == EVENTS
    writes = {store["write"] for store in stores[1:]}
    for place in ("journal/", "version_sets/", "prepared/", "aliases/", "alias champion", "alias candidate"):
        assert any(place in write for write in writes), place
    assert sum(store["write"].endswith(".json") and "/journal/" in store["write"] for store in stores) == 2 * len(
        EVENTS
    )


def test_a_controller_killed_at_any_write_ends_as_one_that_never_was(stores: list[dict[str, Any]]) -> None:
    whole = end_of(stores[0]["directory"])
    for store in stores[1:]:
        assert end_of(store["directory"]) == whole, (
            f"killed {'behind' if store['behind'] else 'before'} {store['write']}"
        )


def test_every_journal_that_a_kill_left_verifies_and_folds_to_one_state(stores: list[dict[str, Any]]) -> None:
    states = set()
    for store in stores:
        journal = Journal(LocalStore(Path(store["directory"])), "glossary", FixedClock())
        assert journal.verify() == len(EVENTS)
        state = fold(journal.entries())
        assert state is not None
        states.add((state.head, state.stable, state.candidate, state.aborted, state.considered))
    assert len(states) == 1
