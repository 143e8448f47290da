import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from headrace.errors import RegistryMissing, RegistryUnavailable
from headrace.rollout.aliases import find_drift, project, project_if_possible, wanted_aliases
from headrace.rollout.journal import Journal
from headrace.rollout.states import RolloutState, fold
from headrace.store.local import LocalStore
from headrace.version_sets.sets import VersionSets
from tests.rollout.builders import desired, make_journal, make_member, make_model, make_set

BASE, SECOND = make_model(1, kind="base"), make_model(2)


class Registry:
    """Aliases in memory; counts what it is asked."""

    def __init__(self) -> None:
        self.models: dict[str, dict[str, str]] = {}
        self.num_calls = 0
        self.is_up = True

    def aliases(self, model_name: str) -> dict[str, str]:
        self._count()
        return dict(self.models.get(model_name, {}))

    def set_alias(self, model_name: str, alias: str, version: str | None) -> None:
        self._count()
        aliases = self.models.setdefault(model_name, {})
        aliases.pop(alias, None)
        if version is not None:
            aliases[alias] = version

    def _count(self) -> None:
        self.num_calls += 1
        if not self.is_up:
            raise RegistryUnavailable("MLflow is down.")


def initialize(journal: Journal, sets: VersionSets) -> None:
    fields = {"version_set": sets.put(desired(BASE)), "weights_digest": BASE.weights_digest}
    journal.append("initialized", fields, expected=journal.head())


def start(journal: Journal, sets: VersionSets) -> None:
    fields = {"version_set": sets.put(desired(SECOND)), "weights_digest": "w2", "step": 0, "weight": 0.1, "num_rows": 0}
    journal.append("started", fields, expected=journal.head())


def settle(journal: Journal, event: str) -> None:
    journal.append(event, {"version_set": desired(SECOND).id, "num_rows": 14}, expected=journal.head())


def with_a_candidate(directory: Path) -> tuple[Journal, VersionSets, LocalStore, Registry]:
    store, registry = LocalStore(directory), Registry()
    journal, sets = make_journal(directory), VersionSets(store)
    initialize(journal, sets)
    start(journal, sets)
    project(journal, sets, store, registry)
    return journal, sets, store, registry


def test_a_servers_own_model_has_no_aliases_and_the_registry_is_not_asked(tmp_path: Path) -> None:
    store, registry = LocalStore(tmp_path), Registry()
    journal, sets = make_journal(tmp_path), VersionSets(store)
    fields = {"version_set": sets.put(make_set(make_member(weights_uri=""))), "weights_digest": "w"}
    journal.append("initialized", fields, expected=0)
    assert project(journal, sets, store, registry) == []
    assert registry.num_calls == 0


def test_aliases_follow_the_journal(tmp_path: Path) -> None:
    store, registry = LocalStore(tmp_path), Registry()
    journal, sets = make_journal(tmp_path), VersionSets(store)
    assert project(journal, sets, store, registry) == []
    seen = []
    for step in (initialize, start):
        step(journal, sets)
        project(journal, sets, store, registry)
        seen.append(dict(registry.models["tiny"]))
    settle(journal, "promoted")
    project(journal, sets, store, registry)
    seen.append(dict(registry.models["tiny"]))
    assert seen == [{"champion": "1"}, {"champion": "1", "candidate": "2"}, {"champion": "2"}]


def test_a_rollback_takes_the_candidate_alias_away(tmp_path: Path) -> None:
    journal, sets, store, registry = with_a_candidate(tmp_path)
    settle(journal, "aborted")
    (change,) = project(journal, sets, store, registry)
    assert str(change) == "candidate of tiny is 2, the journal says unset"
    assert registry.models["tiny"] == {"champion": "1"}


def test_a_tick_that_changes_no_alias_does_not_ask_mlflow(tmp_path: Path) -> None:
    journal, sets, store, registry = with_a_candidate(tmp_path)
    registry.is_up = False
    advanced = {"version_set": desired(SECOND).id, "step": 1, "weight": 0.5, "num_rows": 14}
    journal.append("advanced", advanced, expected=2)
    assert project(journal, sets, store, registry) == []


def test_the_journal_stands_while_mlflow_is_down_and_the_next_tick_makes_it_good(tmp_path: Path) -> None:
    store, registry = LocalStore(tmp_path), Registry()
    journal, sets = make_journal(tmp_path), VersionSets(store)
    initialize(journal, sets)
    registry.is_up = False
    with pytest.raises(RegistryUnavailable):
        project(journal, sets, store, registry)
    registry.is_up = True
    project(journal, sets, store, registry)
    assert registry.models["tiny"] == {"champion": "1"}


def test_a_newer_entry_that_came_while_aliases_were_written_is_written_too(tmp_path: Path) -> None:
    store, journal, sets = LocalStore(tmp_path), make_journal(tmp_path), VersionSets(LocalStore(tmp_path))
    initialize(journal, sets)

    class Slow(Registry):
        """While it writes, somebody else starts a candidate and writes its aliases."""

        overtaken = False

        def set_alias(self, model_name: str, alias: str, version: str | None) -> None:
            if not self.overtaken:
                self.overtaken = True
                other = make_journal(tmp_path)
                start(other, sets)
                project(other, sets, store, self)
            super().set_alias(model_name, alias, version)

    registry = Slow()
    project(journal, sets, store, registry)
    assert registry.models["tiny"] == {"champion": "1", "candidate": "2"}


def test_an_alias_moved_by_hand_is_reported_and_not_followed(tmp_path: Path) -> None:
    store, registry = LocalStore(tmp_path), Registry()
    journal, sets = make_journal(tmp_path), VersionSets(store)
    initialize(journal, sets)
    project(journal, sets, store, registry)
    registry.models["tiny"]["champion"] = "7"
    state = fold(journal.entries())
    assert state is not None
    (drift,) = find_drift(wanted_aliases(state, sets), registry)
    assert str(drift) == "champion of tiny is 7, the journal says 1"


def test_a_set_of_several_models_has_an_alias_in_each(tmp_path: Path) -> None:
    sets = VersionSets(LocalStore(tmp_path))
    writer = make_member("writer", model_name="a", model_version="3")
    judge = make_member("judge", model_name="b", model_version="5")
    set_id = sets.put(make_set(writer, judge))
    state = RolloutState(stable=set_id, stable_weights="w", considered=frozenset({set_id}), head=1)
    assert wanted_aliases(state, sets, prefix="glossary-") == {
        "a": {"glossary-champion": "3", "glossary-candidate": None},
        "b": {"glossary-champion": "5", "glossary-candidate": None},
    }


KILLED_AFTER_THE_JOURNAL = """
import os, signal, sys
from pathlib import Path
from headrace.rollout import aliases
from headrace.store.local import LocalStore
from headrace.version_sets.sets import VersionSets
from tests.rollout.builders import make_journal
from tests.rollout.test_aliases import initialize

class Dies:
    def aliases(self, model_name):
        os.kill(os.getpid(), signal.SIGKILL)

store, journal = LocalStore(Path(sys.argv[1])), make_journal(Path(sys.argv[1]))
initialize(journal, VersionSets(store))
aliases.project(journal, VersionSets(store), store, Dies())
"""


@pytest.mark.process
def test_a_tick_killed_between_journal_and_aliases_is_made_good_by_the_next(tmp_path: Path) -> None:
    checkout = Path(__file__).resolve().parents[2]
    environment = {**os.environ, "PYTHONPATH": str(checkout)}
    command = [sys.executable, "-c", KILLED_AFTER_THE_JOURNAL, str(tmp_path)]
    assert subprocess.run(command, env=environment, check=False).returncode == -signal.SIGKILL
    store, registry = LocalStore(tmp_path), Registry()
    project(make_journal(tmp_path), VersionSets(store), store, registry)
    assert registry.models["tiny"] == {"champion": "1"}


class Forgetful(Registry):
    """A registry from which versions were deleted: as MLflow, it points no alias at what it does not have."""

    def __init__(self, *deleted: str) -> None:
        super().__init__()
        self.deleted = deleted

    def set_alias(self, model_name: str, alias: str, version: str | None) -> None:
        if version in self.deleted:
            raise RegistryMissing(f"MLflow does not have this any more: version {version} of {model_name}.")
        super().set_alias(model_name, alias, version)


def test_a_deleted_version_is_that_one_aliass_drift_and_the_others_are_written(tmp_path: Path) -> None:
    store, registry = LocalStore(tmp_path), Forgetful("1")
    journal, sets = make_journal(tmp_path), VersionSets(store)
    initialize(journal, sets)
    start(journal, sets)
    told = project_if_possible(journal, sets, store, registry)
    assert registry.models["tiny"] == {"candidate": "2"}
    assert told == (
        "not written: champion of tiny is unset, the journal says 1 (MLflow does not have this any more: version 1 of "
        "tiny.); candidate of tiny: 2"
    )
    state = fold(journal.entries())
    assert state is not None
    (drift,) = find_drift(wanted_aliases(state, sets), registry)
    assert (drift.alias, drift.wanted, drift.found) == ("champion", "1", None)


def test_a_deleted_version_does_not_cost_a_look_at_the_registry_every_tick(tmp_path: Path) -> None:
    store, registry = LocalStore(tmp_path), Forgetful("1")
    journal, sets = make_journal(tmp_path), VersionSets(store)
    initialize(journal, sets)
    project(journal, sets, store, registry)
    num_calls = registry.num_calls
    assert project(journal, sets, store, registry) == []
    assert registry.num_calls == num_calls
