"""`python -m benchmarks.inbox.steps.restate_client TASK`: asks Restate's ingress for units, and waits for each."""

import asyncio
import json
from typing import Any

import aiohttp
import uvloop

from benchmarks.inbox.steps.pace import Task, run_units, task_of_arguments


async def run(task: Task) -> dict[str, Any]:
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector) as session:

        async def unit(name: str) -> None:
            async with session.post(f"{task.address}/units/run", json=name) as answer:
                said = await answer.read()
                assert answer.status == 200, f"Restate answers {answer.status}: {said[:500]!r}"

        return await run_units(task, unit)


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        print(json.dumps(runner.run(run(task_of_arguments()))))
