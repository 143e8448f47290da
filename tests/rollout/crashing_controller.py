"""Rolls two candidates out, each time in a forked process that is killed (-9) at another write, and once to the end.

`python tests/rollout/crashing_controller.py DIRECTORY` leaves one store for the whole rollout and one for each side of
each write: of a journal entry, a version set, a preparation record, an alias, a projection. After a kill the controller
is started again, once. Prints one line of JSON a store: its directory, the write it was killed at, and on which side.
"""

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from functools import partial

from headrace.clock import SystemClock
from headrace.rollout.aliases import project
from headrace.rollout.candidates import ModelCandidates
from headrace.rollout.controller import Facts, tick
from headrace.rollout.gates import PASS_RATE, Evidence, GateSettings
from headrace.rollout.journal import Journal
from headrace.rollout.plan import Plan, Step
from headrace.rollout.preparation import preparations
from headrace.rollout.sequential.samples import Sample
from headrace.rollout.states import RolloutState
from headrace.store.local import LocalStore
from headrace.version_sets.sets import VersionSet, VersionSets
from tests.rollout.builders import desired, make_model

NAME = "glossary"
MODELS = [make_model(1, kind="base"), make_model(2), make_model(3)]
PLAN = Plan(
    steps=(Step(weight=0.1, cap=5), Step(weight=0.5)),
    salt=NAME,
    gate=GateSettings(min_rows=1, pass_rate_margin=None, heldout_early=False),
)


class Writes:
    """Counts what is written, and kills this process at the write that it is told."""

    def __init__(self, kill_at: int | None = None, *, behind: bool = False) -> None:
        self.done: list[str] = []
        self._kill_at = kill_at
        self._behind = behind

    def __call__(self, what: str, write: Callable[[], bool]) -> bool:
        is_last = len(self.done) + 1 == self._kill_at
        if is_last and not self._behind:
            os.kill(os.getpid(), signal.SIGKILL)
        made = write()
        if is_last:
            os.kill(os.getpid(), signal.SIGKILL)
        self.done.append(what)
        return made


class CountedStore(LocalStore):
    """A real store on a real disk; every create is a write that the process may be killed at."""

    def __init__(self, directory: Path, writes: Writes) -> None:
        super().__init__(directory)
        self._writes = writes

    def create(self, key: str, body: bytes, *, durable: bool = True) -> bool:
        return self._writes(f"create {key}", lambda: LocalStore.create(self, key, body, durable=durable))


class FileRegistry:
    """Aliases in a file, which lives through a kill as MLflow's database does."""

    def __init__(self, file: Path, writes: Writes) -> None:
        self._file = file
        self._writes = writes

    def aliases(self, model_name: str) -> dict[str, str]:
        return self._read().get(model_name, {})

    def set_alias(self, model_name: str, alias: str, version: str | None) -> None:
        self._writes(f"alias {alias} of {model_name}", lambda: self._set(model_name, alias, version))

    def _set(self, model_name: str, alias: str, version: str | None) -> bool:
        found = self._read()
        aliases = found.setdefault(model_name, {})
        aliases.pop(alias, None)
        if version is not None:
            aliases[alias] = version
        beside = self._file.with_suffix(".new")
        beside.write_text(json.dumps(found, sort_keys=True))
        beside.replace(self._file)
        return True

    def _read(self) -> dict[str, dict[str, str]]:
        return json.loads(self._file.read_text()) if self._file.exists() else {}


def evidence(state: RolloutState) -> Evidence:
    """The second candidate is bad; every entry brings rows of its own."""
    rows = Sample.of_counts(3 * state.head, 3 * state.head)
    loss = 9.0 if state.candidate_weights == MODELS[2].weights_digest else 3.0
    return Evidence(metrics={PASS_RATE: (rows, rows)}, heldout_candidate=loss, heldout_stable=3.0)


def roll_out(directory: Path, writes: Writes) -> None:
    """Tick until nothing is left to do, each tick as the rollout run does it."""
    store, clock = CountedStore(directory, writes), SystemClock()
    registry = FileRegistry(directory / "aliases.json", writes)
    version_sets = VersionSets(store)
    while True:
        journal = Journal(store, NAME, clock)
        facts = Facts(
            candidates=ModelCandidates(model_name="tiny", models=MODELS, desired=desired),
            now=clock.now(),
            evidence=evidence,
            preparations=partial(preparations, store, NAME),
            node="node-a",
        )
        actions = tick(journal, version_sets, PLAN, facts, store=store, clock=clock, prepare=_prepare)
        project(journal, version_sets, store, registry)
        if len(actions) == 1:
            return


def _prepare(version_set: VersionSet) -> None:
    assert version_set.members


def _forked(work: Callable[[], None]) -> int:
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            work()
            status = 0
        finally:
            os._exit(status)
    return os.waitpid(pid, 0)[1]


def main() -> None:
    root = Path(sys.argv[1])
    whole = Writes()
    roll_out(root / "whole", whole)
    print(json.dumps({"directory": str(root / "whole"), "write": "", "behind": False}))
    for number, what in enumerate(whole.done, 1):
        for behind in (False, True):
            directory = root / f"killed-{number:03d}-{'behind' if behind else 'before'}"
            status = _forked(lambda: roll_out(directory, Writes(number, behind=behind)))  # noqa: B023
            assert os.WIFSIGNALED(status), f"not killed at {what}"
            assert os.WTERMSIG(status) == signal.SIGKILL, f"not killed at {what}"
            assert _forked(lambda: roll_out(directory, Writes())) == 0, f"not started again after {what}"  # noqa: B023
            print(json.dumps({"directory": str(directory), "write": what, "behind": behind}))


if __name__ == "__main__":
    main()
