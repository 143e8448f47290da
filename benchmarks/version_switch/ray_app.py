# pyright: reportMissingImports=false, reportAttributeAccessIssue=false, reportFunctionMemberAccess=false
"""A composed Ray Serve app of two deployments, upgraded in place under load; run by the peers' own interpreter.

Knows nothing of Headrace. Prints one line of JSON: `reads`, `mixed` (both roles answered, with two versions), `failed`.
"""

import asyncio
import json
import os
import sys
import threading
import time

import ray
from ray import serve

NUM_UPGRADES = 3
NUM_CLIENTS = 4


@serve.deployment(num_replicas=1, ray_actor_options={"num_cpus": 0.1})
class Painter:
    def __init__(self, version: str) -> None:
        self.version = version

    async def __call__(self) -> str:
        await asyncio.sleep(0.01)
        return self.version


@serve.deployment(num_replicas=1, ray_actor_options={"num_cpus": 0.1})
class Writer:
    def __init__(self, version: str, painter: serve.handle.DeploymentHandle) -> None:
        self.version = version
        self.painter = painter

    async def __call__(self) -> tuple[str, str]:
        return self.version, await self.painter.remote()


def main() -> None:
    ray.init(num_cpus=2, include_dashboard=False, logging_level="ERROR", log_to_driver=False)
    handle = serve.run(Writer.bind("1", Painter.bind("1")), name="app", route_prefix=None)
    pairs: list[tuple[str, str]] = []
    failed: list[str] = []
    ended = threading.Event()

    def ask() -> None:
        while not ended.is_set():
            try:
                pairs.append(tuple(handle.remote().result(timeout_s=10)))
            except Exception as error:  # noqa: BLE001 (whatever a client gets instead of an answer)
                failed.append(repr(error)[:100])

    clients = [threading.Thread(target=ask) for _ in range(NUM_CLIENTS)]
    for client in clients:
        client.start()
    for version in range(2, 2 + NUM_UPGRADES):
        time.sleep(1.0)
        serve.run(Writer.bind(str(version), Painter.bind(str(version))), name="app", route_prefix=None)
    time.sleep(1.0)
    ended.set()
    for client in clients:
        client.join()
    mixed = sum(first != second for first, second in pairs)
    print(json.dumps({"reads": len(pairs), "mixed": mixed, "failed": len(failed)}), flush=True)
    serve.shutdown()
    ray.shutdown()
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
