"""The same timed stages in Ray Data or Daft, as their pages advise: an actor a stage, batches streamed between them.

Runs with the interpreter of the peers' own place: `python -m benchmarks.modalities.timed_peers TASK`.
"""

import json
import sys
from typing import Any

from benchmarks.modalities.timed_device import Device


def ray(task: dict[str, Any]) -> int:
    import numpy as np
    import ray as ray_core  # pyright: ignore[reportMissingImports] (a peer: make bench-setup)
    from ray.data import from_items  # pyright: ignore[reportMissingImports]

    class Stage:
        def __init__(self, kind: str, item_seconds: float) -> None:
            self._kind, self._device = kind, Device(kind, kind, item_seconds)

        def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
            for unit in batch["unit"]:
                self._device.work(str(unit))
            return {**batch, self._kind: np.array(batch["unit"])}

    # A CPU each, whatever this machine has: the stages wait for their devices.
    ray_core.init(num_cpus=4, include_dashboard=False, log_to_driver=False)
    rows = from_items(
        [{"unit": f"row {number}"} for number in range(task["rows"])], override_num_blocks=task["partitions"]
    )
    for kind, seconds in task["item_seconds"].items():
        rows = rows.map_batches(
            Stage,
            fn_constructor_args=(kind, seconds),
            batch_size=task["batch_rows"],
            concurrency=1,
        )
    return sum(len(batch["unit"]) for batch in rows.iter_batches(batch_size=task["batch_rows"]))


def daft(task: dict[str, Any]) -> int:
    import daft as daft_core  # pyright: ignore[reportMissingImports] (a peer: make bench-setup)

    def stage(kind: str, item_seconds: float) -> Any:
        # An actor of its own process, which is made once.
        @daft_core.udf(
            return_dtype=daft_core.DataType.string(), batch_size=task["batch_rows"], concurrency=1, use_process=True
        )
        class Stage:
            def __init__(self) -> None:
                self._device = Device(kind, kind, item_seconds)

            def __call__(self, units: Any) -> list[str]:
                found = units.to_pylist()
                for unit in found:
                    self._device.work(unit)
                return found

        return Stage

    rows = daft_core.from_pydict({"unit": [f"row {number}" for number in range(task["rows"])]})
    before = "unit"
    for kind, seconds in task["item_seconds"].items():
        rows = rows.with_column(kind, stage(kind, seconds)(rows[before]))
        before = kind
    return len(rows.to_pydict()["unit"])


def main(argument: str) -> None:
    task = json.loads(argument)
    num_rows = {"ray": ray, "daft": daft}[task["peer"]](task)
    print(json.dumps({"num_rows": num_rows}))


if __name__ == "__main__":
    main(sys.argv[1])
