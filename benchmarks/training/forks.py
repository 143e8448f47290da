"""Trainings for the parts that need many starts, in a process that forks its gangs (`simulation.forked_gangs`)."""

import json
import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.training.training_site import Site
from headrace.clock import SystemClock
from headrace.errors import TrainingFailed
from headrace.store.local import LocalStore
from headrace.training.devices import Devices
from headrace.training.gang import Rows
from headrace.training.recipe import Recipe
from headrace.training.session import Outcome, TrainingRequest, Workplace, train
from headrace.training.train import import_libraries
from simulation.forked_gangs import HOOKS, ForkedRunner, Pids


@dataclass(frozen=True)
class Kill:
    """Rank `rank` is killed `seconds` after `step` was told."""

    step: int
    rank: int
    seconds: float


def drawn(draw: random.Random, *, steps: int, ranks: int, step_seconds: float) -> Kill:
    """Any step, any rank, any moment of the step."""
    return Kill(draw.randrange(1, steps), draw.randrange(ranks), draw.uniform(0, step_seconds))


def small_recipe(name: str, stage: int, *, steps: int, batch: int, checkpoint_every: int, **changes: Any) -> Recipe:
    """In fp32, since states are compared bit by bit; a rank that hangs is found within two minutes."""
    return Recipe(
        name=name,
        model="small",
        steps=steps,
        batch=batch,
        learning_rate=3e-3,
        warmup_steps=3,
        weight_decay=0.1,
        zero_stage=stage,
        precision="fp32",
        checkpoint_every=checkpoint_every,
        step_timeout_seconds=120,
        **changes,
    )


class Trainings:
    """Trainings of one site, each in a copy of its store."""

    def __init__(self, site: Site) -> None:
        self._site = site
        import_libraries()

    def begin(self, name: str) -> "Training":
        directory = self._site.directory / "trainings" / name
        shutil.copytree(self._site.store.directory, directory / "store")
        return Training(self._site, directory)


class Training:
    def __init__(self, site: Site, directory: Path) -> None:
        self.store = LocalStore(directory / "store")
        self._site, self._directory = site, directory
        self.said: list[str] = []

    def run(self, recipe: Recipe, ranks: int, kill: Kill | None = None) -> Outcome | None:
        """None: the gang was killed. A kill that comes too late is none: the training has ended then."""
        HOOKS.disturb = _killing(kill) if kill else lambda rows, pids: None
        request = TrainingRequest(
            # The ranks are no part of a training's identity.
            recipe=replace(recipe, ranks=ranks),
            base_weights_digest=self._site.base_digest,
            inputs=self._site.inputs,
        )
        place = Workplace(
            store=self.store,
            work_root=self._directory / "work",
            devices=Devices(num_gpus=0, memory_mib=None),
            environment=os.environ,
            clock=SystemClock(),
            run_id="benchmark",
            runner=ForkedRunner.of,
        )
        try:
            return train(request, place, say=self.said.append)
        except TrainingFailed:
            if kill is None:
                raise
            return None

    def drop(self) -> None:
        shutil.rmtree(self._directory)


def _killing(kill: Kill) -> Callable[[Rows, Pids], None]:
    due: list[float] = []

    def disturb(rows: Rows, pids: Pids) -> None:
        if not due and any(row["step"] >= kill.step for row in rows):
            due.append(time.monotonic() + kill.seconds)
        if due and time.monotonic() >= due[0] and kill.rank in pids:
            os.kill(pids[kill.rank], signal.SIGKILL)

    return disturb


def answer(body: dict[str, Any]) -> int:
    print(json.dumps(body), flush=True)
    return 0
