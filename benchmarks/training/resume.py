"""Trainings that are killed at a random moment and resumed, beside one that nothing disturbs.

Two ranks, ZeRO stages 0 to 3 in turn, fp32, a Llama of 0.2M parameters with dropout, packed rows of two examples,
clipping and a schedule on, a checkpoint every four steps. One rank is killed by `kill -9` at a random moment of a
random step, in the middle of checkpoints too; then the training is started again. Equal means sha256 of all fp32
weights and moments, and of the sealed weights. The peer is Hugging Face's Trainer with DeepSpeed on the same rows,
killed and resumed in the same way; of it, only the exported weights are compared.
"""

from pathlib import Path
from typing import Any

from benchmarks.measuring import at_least, print_table, run_child
from benchmarks.parts import Outcome
from benchmarks.training.parts import Given
from simulation.forked_gangs import ENVIRONMENT

_STAGES = (0, 1, 2, 3)
_SEED = 15
# Some steps and a checkpoint of these models take so long.
_STEP_SECONDS = 0.1


def run(given: Given, directory: Path) -> Outcome:
    each = -(-given.kills // len(_STAGES))
    task = {"stages": _STAGES, "kills": each, "seed": _SEED, "step_seconds": _STEP_SECONDS}
    sides: dict[str, list[dict[str, Any]]] = {
        side: run_child(module, task | {"directory": str(directory / side)}, environment=ENVIRONMENT).body["runs"]
        for side, module in (
            ("ours", "benchmarks.training.resume_side"),
            ("trainer", "benchmarks.training.peer_trainer"),
        )
    }
    equal = {side: sum(bool(run["equal"]) for run in runs) for side, runs in sides.items()}
    print_table(
        f"{len(sides['ours'])} trainings killed and resumed: how many end as if nothing had happened",
        ["stage", "ours", "Trainer + DeepSpeed"],
        [
            [str(stage), *(_share([run for run in runs if run["stage"] == stage]) for runs in sides.values())]
            for stage in _STAGES
        ],
    )
    body = {"equal": equal, "of": len(sides["ours"]), "runs": sides}
    return Outcome(body=body, bars={"resume": at_least(equal["ours"], len(sides["ours"]))})


def _share(runs: list[dict[str, Any]]) -> str:
    return f"{sum(bool(run['equal']) for run in runs)}/{len(runs)}"
