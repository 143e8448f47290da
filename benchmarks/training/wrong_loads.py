"""Damaged and half-written checkpoints: is one ever loaded, and is the last whole one found?

Real checkpoints of two ranks, ZeRO stage 2. Ours: a process ends, as by `kill -9`, at each file boundary of a
checkpoint and of a conversion to another number of ranks; the newest checkpoint's files are truncated, get one flipped
byte, or vanish, each file in turn, at random places; the disk is full (a limit on file size) at random places. A load
is wrong if what a restart chooses has a byte that was not written. Beside it, what DeepSpeed's `save_checkpoint` with
its `latest` makes of the same truncated, flipped and missing files: one rank loads, and its weights and moments are
compared with those that were saved.
"""

from pathlib import Path
from typing import Any

from benchmarks.measuring import at_least, at_most, print_table, run_child
from benchmarks.parts import Outcome
from benchmarks.training.parts import Given
from simulation.forked_gangs import ENVIRONMENT


def run(given: Given, directory: Path) -> Outcome:
    task = {"directory": str(directory), "repeats": given.runs}
    body = run_child("benchmarks.training.wrong_loads_side", task, environment=ENVIRONMENT).body
    faults: dict[str, dict[str, int]] = body["faults"]
    stock: dict[str, dict[str, int]] = body["stock"]
    print_table(
        "Faults of checkpoints",
        ["fault", "cases", "wrong loads", "resumed from the last whole one", "named", "stock: cases", "wrong", "right"],
        [
            [name, *(str(of.get(key, "")) for key in ("cases", "wrong", "resumed", "named")), *_of_stock(stock, name)]
            for name, of in faults.items()
        ],
        caption="named: rank, file, and both digests or sizes. stock, else: refused, and no older one is tried",
    )
    cases = sum(of["cases"] for of in faults.values())
    damaged = [of for of in faults.values() if "named" in of]
    bars = {
        "wrong_loads": at_most(sum(of["wrong"] for of in faults.values()), 0),
        "last_whole_resumed": at_least(sum(of["resumed"] for of in faults.values()), cases),
        "damage_named": at_least(sum(of["named"] for of in damaged), sum(of["cases"] for of in damaged)),
    }
    return Outcome(body=body | {"cases": cases}, bars=bars)


def _of_stock(stock: dict[str, dict[str, int]], fault: str) -> list[str]:
    found: dict[str, Any] = stock.get(fault, {})
    return [str(found.get(key, "")) for key in ("cases", "wrong", "right")]
