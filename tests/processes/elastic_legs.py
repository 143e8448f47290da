"""Trainings that change their number of ranks: what `test_elastic_training.py` runs as a module, once.

One process imports the libraries and forks every gang. For each case one training of two ranks that nothing disturbs,
and one that goes from two ranks to one and back, each time after its gang was killed. The last line is JSON.
"""

import json
import os
import shutil
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from headrace.errors import TrainingFailed
from headrace.training.checkpoints import checkpoints_of
from headrace.training.devices import Devices
from headrace.training.lora_settings import Lora
from headrace.training.progress import ProgressLog
from headrace.training.session import Outcome, train
from headrace.training.train import import_libraries
from simulation.forked_gangs import HOOKS, ForkedRunner
from tests.training_builders import Bench, make_bench

RECIPE = {
    "steps": 12,
    "batch": 2,
    "learning_rate": 5e-3,
    "checkpoint_every": 2,
    "checkpoints_kept": 1,
    "warmup_steps": 3,
    "weight_decay": 0.1,
    "precision": "fp32",
    "step_timeout_seconds": 120,
}
# Stage 2 goes stage 1's way, stage 0 converts nothing; `python -m benchmarks.training --only elastic` has them.
STAGES = (1, 3)
CASES: dict[str, dict[str, Any]] = {
    **{str(stage): {"zero_stage": stage} for stage in STAGES},
    **{f"adapters-{stage}": {"zero_stage": stage, "lora": Lora(rank=4)} for stage in STAGES},
}
_DEVICES = Devices(num_gpus=0, memory_mib=None)


class Legs:
    def __init__(self, directory: Path, model: Path) -> None:
        self._directory, self._model = directory, model
        self.said: list[str] = []

    def run(self, case: str) -> dict[str, Any]:
        straight = self._train(self._bench(f"{case}-straight"), case, ranks=2)
        bench = self._bench(f"{case}-elastic")
        self._train(bench, case, ranks=2, killed_at=3)
        # As it is before anything is converted.
        shutil.copytree(bench.store.directory, self._directory / f"{case}-two-ranks")
        self._train(bench, case, ranks=1, killed_at=7)
        training_id = bench.request(**RECIPE, **CASES[case]).training_id
        forms = [one.form for one in checkpoints_of(bench.store, training_id, damaged=print)]
        self.said.clear()
        elastic = self._train(bench, case, ranks=2)
        assert straight
        assert elastic
        return {
            "straight": straight.figures(),
            "elastic": elastic.figures(),
            "forms": forms,
            "said": list(self.said),
        }

    def _bench(self, name: str) -> Bench:
        return make_bench(self._directory / name, self._model)

    def _train(self, bench: Bench, case: str, *, ranks: int, killed_at: int | None = None) -> Outcome | None:
        HOOKS.in_rank = lambda config, rank: None if killed_at is None else _die_behind(killed_at)
        place = replace(bench.place(dict(os.environ), devices=_DEVICES), runner=ForkedRunner.of)
        try:
            return train(bench.request(**RECIPE, **CASES[case], ranks=ranks), place, say=self.said.append)
        except TrainingFailed:
            if killed_at is None:
                raise
            return None


def _die_behind(step: int) -> None:
    """Rank 0 ends as by `kill -9` once it has told of `step`."""
    append = ProgressLog.append

    def append_and_die(log: ProgressLog, row: dict[str, Any]) -> None:
        append(log, row)
        if row["step"] == step:
            os.kill(os.getpid(), signal.SIGKILL)

    setattr(ProgressLog, "append", append_and_die)  # noqa: B010 (for the type checker)


def main() -> int:
    directory, model, *cases = sys.argv[1:]
    import_libraries()
    legs = Legs(Path(directory), Path(model))
    print(json.dumps({case: legs.run(case) for case in cases}))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
