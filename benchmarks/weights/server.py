"""`python -m benchmarks.weights.server TASK`: SeaweedFS behind a proxy that takes its time, in a namespace.

Prints where it is, then serves until its input ends; each line of it is answered with the bytes that were served. Its
CPU is its own: whoever measures a client does not see it.
"""

import json
import sys
from pathlib import Path
from typing import Any

from benchmarks.weights.network import enter
from pipelines.object_store import running_object_store
from simulation.faults.proxy import fault_proxy


def main() -> None:
    task: dict[str, Any] = json.loads(sys.argv[1])
    enter(task["namespace"])
    with (
        running_object_store(Path(task["directory"])) as server,
        fault_proxy(server.endpoint, host=task["address"]) as proxy,
    ):
        proxy.add("delay", lambda request: request.method == "GET", times=-1, seconds=task["delay_seconds"])
        environment = {**server.environment, "AWS_ENDPOINT_URL": proxy.endpoint}
        print(json.dumps({"environment": environment, "direct": server.environment, "url": server.url}))
        print("ready", flush=True)
        for _ in sys.stdin:
            print(proxy.num_body_bytes)
            print("ready", flush=True)


if __name__ == "__main__":
    main()
