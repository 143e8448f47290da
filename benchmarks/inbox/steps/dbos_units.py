"""`python -m benchmarks.inbox.steps.dbos_units TASK`: workflows of five steps with DBOS, on a Postgres, from threads.

Each thread runs workflows itself: no queue, and no polling for results, is between.
"""

import json

from dbos import DBOS, DBOSConfig  # pyright: ignore[reportMissingImports]

from benchmarks.inbox.steps.pace import NUM_STEPS, run_units_in_threads, step_result, task_of_arguments


@DBOS.step()
def step(name: str, number: int) -> str:
    return step_result(name, number)


@DBOS.workflow()
def unit(name: str) -> int:
    return sum(len(step(name, number)) for number in range(1, NUM_STEPS + 1))


def run_unit(name: str) -> None:
    unit(name)


if __name__ == "__main__":
    task = task_of_arguments()
    config: DBOSConfig = {
        "name": "steps",
        "system_database_url": task.address,
        "sys_db_pool_size": task.concurrency + 4,
        "log_level": "ERROR",
        "enable_otlp": False,
    }
    DBOS(config=config)
    DBOS.launch()
    result = run_units_in_threads(task, run_unit)
    DBOS.destroy()
    print(json.dumps(result))
