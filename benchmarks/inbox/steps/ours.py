"""`python -m benchmarks.inbox.steps.ours TASK`: five turn events a unit into a gateway's log, each awaited.

As a call keeps its turns: `Intake.keep`, whose groups share a wait for the disk; what a unit has made is forgotten once
it is whole, as a call's is once the store has it.
"""

import asyncio
import json
from datetime import UTC
from pathlib import Path
from typing import Any

import uvloop

from benchmarks.inbox.steps.pace import NUM_STEPS, Task, run_units, step_result, task_of_arguments
from headrace.clock import SystemClock
from headrace.inbox.intake import Intake
from headrace.inbox.sealing import Sealer
from headrace.inbox.turn_rows import TurnRow
from headrace.store.local import LocalStore


async def run(task: Task) -> dict[str, Any]:
    directory, clock = Path(task.directory), SystemClock()
    store = LocalStore(directory / "store")
    intake = Intake(
        directory / "log", {}, lambda log: Sealer(store, log, UTC, clock), clock=clock, record=lambda *_, **__: None
    )
    intake.start()

    async def unit(name: str) -> None:
        for number in range(1, NUM_STEPS + 1):
            await intake.keep([TurnRow(call=name, epoch=1, sequence=number, event=step_result(name, number))])
        intake.forget(name, 1, NUM_STEPS)

    try:
        return await run_units(task, unit)
    finally:
        intake.close()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        print(json.dumps(runner.run(run(task_of_arguments()))))
