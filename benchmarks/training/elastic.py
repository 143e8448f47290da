"""Trainings that change their number of ranks, 2→1→2 and 1→2→1, beside one at the first number that nothing disturbs.

ZeRO stages 0 to 3 in fp32, a Llama of 0.2M parameters, one micro-batch a rank and step at two ranks, no dropout,
clipping on. Each change follows a `kill -9` of the gang, and resumes by itself. Compared are sha256 of all fp32 weights
and moments at the end, and of the sealed weights; where they differ, how far the weights are apart, as a share of the
distance that the training moved them. The peer is Hugging Face's Trainer with DeepSpeed, whose checkpoint of two ranks
one rank is to resume.
"""

from pathlib import Path
from typing import Any

from benchmarks.measuring import at_least, at_most, print_table, run_child
from benchmarks.parts import Outcome
from benchmarks.training.parts import Given
from simulation.forked_gangs import ENVIRONMENT

STAGES = (0, 1, 2, 3)
# What is told of weights that are not equal.
_TOLERANCE = 1e-6


def run(given: Given, directory: Path) -> Outcome:
    task = {"directory": str(directory), "stages": STAGES}
    cases: list[dict[str, Any]] = run_child("benchmarks.training.elastic_side", task, environment=ENVIRONMENT).body[
        "cases"
    ]
    peer = run_child(
        "benchmarks.training.peer_trainer",
        {"directory": str(directory / "peer"), "elastic": True},
        environment=ENVIRONMENT,
    ).body
    print_table(
        "A training that changes its number of ranks",
        ["stage, ranks", "state equal", "weights equal", "apart", "resumed behind"],
        [
            [
                f"{case['stage']}, {case['chain']}",
                *("yes" if case[what] else "no" for what in ("state_equal", "weights_equal")),
                f"{case['apart']:.1e}",
                " and ".join(map(str, case["resumed"])),
            ]
            for case in cases
        ],
        caption=f"apart: share of the distance moved. Trainer from 2 ranks to 1: {peer['told']}",
    )
    equal = sum(case["state_equal"] and case["weights_equal"] for case in cases)
    bars = {
        "elastic_resumed": at_least(sum(case["changed"] for case in cases), len(cases)),
        "elastic_apart": at_most(max(case["apart"] for case in cases), _TOLERANCE),
    }
    body = {"cases": cases, "equal": equal, "of": len(cases), "peer": peer}
    return Outcome(body=body, bars=bars)
