"""`python -m benchmarks.weights.client TASK`: one client of the store, in a namespace; answers in a line of JSON.

What it imports is loaded before the clock starts, so the figures are those of fetching alone.
"""

import json
import os
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.measuring import Cost, measured
from benchmarks.weights.network import enter

_REQUEST_BYTES, _NUM_REQUESTS = 8 * 1024 * 1024, 12


def seal(task: dict[str, Any]) -> dict[str, Any]:
    from headrace.store.indexing import index_directory
    from headrace.store.sealed_directory import seal_directory

    store = store_of(task)
    digest = seal_directory(store, Path(task["directory"])).digest
    index_directory(store, digest)
    shutil.rmtree(task["cache"], ignore_errors=True)
    return {"digest": digest}


def headrace(task: dict[str, Any]) -> dict[str, Any]:
    """Fetches what is missing, compares it, and maps every file."""
    import pydantic  # noqa: F401 (every engine's process has it; as the peers' imports, before the clock starts)

    from headrace.store.sealed_directory import MANIFEST, open_directory
    from headrace.store.tensors.index import INDEX

    assert MANIFEST._adapter
    assert INDEX._adapter
    store = store_of(task)
    with _measured() as body:
        body["directory"] = str(open_directory(store, task["digest"]))
    return body


def rank(task: dict[str, Any]) -> dict[str, Any]:
    from headrace.store.tensor_reading import TensorReader

    store = store_of(task)
    with (
        _measured() as body,
        TensorReader(store, task["digest"], rank=task["rank"], num_ranks=task["num_ranks"]) as reader,
    ):
        body["num_tensor_bytes"] = sum(view.nbytes for _, view in reader)
        body["whole_bytes"] = reader.index.num_bytes
        body["fetched_bytes"] = reader.num_bytes
    return body


def first_layer(task: dict[str, Any]) -> dict[str, Any]:
    """Seconds until the embedding and the first layer can be used, and until all can."""
    from headrace.store.tensor_reading import TensorReader

    store = store_of(task)
    with _measured() as body:
        started = time.perf_counter()
        with TensorReader(store, task["digest"]) as reader:
            for name, view in reader:
                _touch(view)
                if ".layers.0." in name or "embed" in name:
                    body["first_layer_seconds"] = time.perf_counter() - started
    return body


def obstore(task: dict[str, Any]) -> dict[str, Any]:
    """Whole files by concurrent ranges: into files, or thrown away (`keeps` false), compared with nothing."""
    import obstore as library

    store = store_of(task)
    client, sealed = store._requests.client, _whole(store, task)
    target = Path(task["cache"])
    target.mkdir(parents=True, exist_ok=True)

    def read(one: tuple[str, int, int]) -> None:
        name, offset, length = one
        body = library.get_range(client, store._path(f"{sealed.key}/{name}"), start=offset, length=length)
        if task["keeps"]:
            with (target / name).open("r+b") as file:
                file.seek(offset)
                file.write(body)

    ranges = []
    for file in sealed.files:
        if task["keeps"]:
            (target / file.name).touch()
        starts = range(0, file.num_bytes, _REQUEST_BYTES)
        ranges += [(file.name, start, min(_REQUEST_BYTES, file.num_bytes - start)) for start in starts]
    with _measured() as body, ThreadPoolExecutor(_NUM_REQUESTS) as threads:
        list(threads.map(read, ranges))
    return body


def s3fs(task: dict[str, Any]) -> dict[str, Any]:
    """Each file fetched with s3fs, and opened with safetensors."""
    import s3fs as library  # pyright: ignore[reportMissingImports] (a peer: make bench-setup)
    from safetensors.torch import load_file

    store = store_of(task)
    files = library.S3FileSystem(endpoint_url=store.endpoint, use_listings_cache=False)
    target = Path(task["cache"])
    target.mkdir(parents=True, exist_ok=True)
    sealed = _whole(store, task)
    with _measured() as body:
        files.get(
            [f"{store.bucket}/{store._full(sealed.key)}/{one.name}" for one in sealed.files],
            [str(target / one.name) for one in sealed.files],
        )
        for path in sorted(target.glob("*.safetensors")):
            load_file(path)
    return body


def runai(task: dict[str, Any]) -> dict[str, Any]:
    """Run:ai's streamer, from the store into tensors in memory, as its documentation uses it."""
    os.environ |= {
        "RUNAI_STREAMER_S3_USE_VIRTUAL_ADDRESSING": "0",
        "RUNAI_STREAMER_S3_ENDPOINT": os.environ["AWS_ENDPOINT_URL"],
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    from runai_model_streamer import SafetensorsStreamer  # pyright: ignore[reportMissingImports] (a peer)

    store = store_of(task)
    sealed = _whole(store, task)
    paths = [store.uri(f"{sealed.key}/{one.name}") for one in sealed.files if one.name.endswith(".safetensors")]
    with _measured() as body, SafetensorsStreamer() as streamer:
        streamer.stream_files(paths)
        body["num_tensor_bytes"] = sum(tensor.nbytes for _, tensor in streamer.get_tensors())
    return body


def store_of(task: dict[str, Any]) -> Any:
    from headrace.store.node_cache import NodeCache
    from headrace.store.s3 import S3Store

    bucket, _, prefix = task["url"].removeprefix("s3://").partition("/")
    offered_at = task["address"] if task.get("offers") else None
    cache = NodeCache(Path(task["cache"]), 50 * 10**9, offered_at=offered_at)
    return S3Store(bucket, prefix, cache=cache)


def _whole(store: Any, task: dict[str, Any]) -> Any:
    from headrace.store.sealed_directory import find_directory

    sealed = find_directory(store, task["digest"])
    assert sealed
    assert not sealed.is_indexed
    return sealed


def _touch(view: memoryview) -> None:
    for position in range(0, view.nbytes, 4096):
        view[position]


@contextmanager
def _measured() -> Iterator[dict[str, Any]]:
    """Wall and CPU seconds, and the most memory beside mapped files, in bytes."""
    body: dict[str, Any] = {}
    most, is_over = [0], threading.Event()
    before = anonymous_bytes()

    def look() -> None:
        while not is_over.wait(0.05):
            most[0] = max(most[0], anonymous_bytes())

    threading.Thread(target=look, daemon=True).start()
    cost = Cost()
    with measured(cost):
        yield body
    is_over.set()
    body |= {"wall": cost.wall_seconds, "cpu": cost.cpu_seconds, "anonymous": most[0] - before}


def anonymous_bytes() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    return 0


TASKS: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    one.__name__: one for one in (seal, headrace, rank, first_layer, obstore, s3fs, runai)
}


def main() -> None:
    task = json.loads(sys.argv[1])
    enter(task["namespace"])
    if task.get("waits"):
        print("ready", flush=True)
        sys.stdin.readline()
    body = TASKS[task["what"]](task)
    if task.get("stays"):
        # Goes on offering what it has.
        print("done", flush=True)
        sys.stdin.readline()
    print(json.dumps(body), flush=True)


if __name__ == "__main__":
    main()
