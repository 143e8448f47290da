"""`python -m benchmarks.weights.loader TASK`: loads weights of this disk, touches every page, and says how long."""

import json
import sys
from pathlib import Path
from typing import Any

from benchmarks.measuring import Cost, Memory, measured

_PAGE_BYTES = 4096


def _tensors(task: dict[str, Any]) -> list[Any]:
    from safetensors.torch import load_file

    directory = Path(task["directory"])
    if task["how"] == "headrace":
        from headrace.store.local import LocalStore
        from headrace.store.sealed_directory import open_directory

        directory = open_directory(LocalStore(Path(task["store"])), task["digest"])
    paths = sorted(directory.glob("*.safetensors"))
    if task["how"] == "runai":
        from runai_model_streamer import SafetensorsStreamer  # pyright: ignore[reportMissingImports] (a peer)

        with SafetensorsStreamer() as streamer:
            streamer.stream_files([str(path) for path in paths])
            return [tensor.clone() for _, tensor in streamer.get_tensors()]
    return [tensor for path in paths for tensor in load_file(path).values()]


def main() -> None:
    import torch

    task = json.loads(sys.argv[1])
    import safetensors.torch  # noqa: F401 (before the clock starts)

    import headrace.store.sealed_directory  # noqa: F401

    before = Memory.now()
    cost = Cost()
    with measured(cost):
        tensors = _tensors(task)
        for tensor in tensors:
            tensor.view(torch.uint8).flatten()[::_PAGE_BYTES].sum()
    body = {"wall": cost.wall_seconds, "cpu": cost.cpu_seconds}
    if task.get("stays"):
        print("loaded", flush=True)
        sys.stdin.readline()
        body |= Memory.now().since(before)
        print("measured", flush=True)
        sys.stdin.readline()
    print(json.dumps(body), flush=True)


if __name__ == "__main__":
    main()
