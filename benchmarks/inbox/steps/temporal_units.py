"""`python -m benchmarks.inbox.steps.temporal_units TASK`: workflows of five activities with Temporal's dev server."""

import asyncio
import json
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

from temporalio import activity, workflow  # pyright: ignore[reportMissingImports]
from temporalio.client import Client  # pyright: ignore[reportMissingImports]
from temporalio.worker import UnsandboxedWorkflowRunner, Worker  # pyright: ignore[reportMissingImports]

from benchmarks.inbox.steps.pace import NUM_STEPS, Task, run_units, step_result, task_of_arguments

_QUEUE = "steps"


@activity.defn
async def step(name: str, number: int) -> str:
    return step_result(name, number)


@workflow.defn
class Unit:
    @workflow.run
    async def run(self, name: str) -> int:
        made = 0
        for number in range(1, NUM_STEPS + 1):
            made += len(
                await workflow.execute_activity(step, args=[name, number], start_to_close_timeout=timedelta(seconds=60))
            )
        return made


async def run(task: Task) -> dict[str, Any]:
    client = await Client.connect(task.address)

    async def unit(name: str) -> None:
        await client.execute_workflow(Unit.run, name, id=name, task_queue=_QUEUE)

    with ThreadPoolExecutor() as threads:
        async with Worker(
            client,
            task_queue=_QUEUE,
            workflows=[Unit],
            activities=[step],
            activity_executor=threads,
            # A sandbox for each workflow would cost more than the steps.
            workflow_runner=UnsandboxedWorkflowRunner(),
            max_concurrent_workflow_task_polls=10,
            max_concurrent_activity_task_polls=10,
        ):
            return await run_units(task, unit)


if __name__ == "__main__":
    print(json.dumps(asyncio.run(run(task_of_arguments()))))
