"""Ray Serve with model multiplexing, one replica: `RAY/python -m benchmarks.residency.ray_side TASK`.

Run by the peer's own interpreter; what the models need (torch, diffusers) it takes from this project's packages, behind
its own.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

_TASK: dict[str, Any] = json.loads(sys.argv[1]) if len(sys.argv) > 1 else {}


def application(task: dict[str, Any]) -> Any:
    from ray import serve  # pyright: ignore[reportMissingImports] (a peer: make bench-setup)

    @serve.deployment(num_replicas=1, max_ongoing_requests=100, ray_actor_options={"num_cpus": 1})
    class Painters:
        def __init__(self) -> None:
            sys.path += task["packages"]
            from benchmarks.residency.six_models import Models

            self._models = Models(Path(task["directory"]))

        @serve.multiplexed(max_num_models_per_replica=task["num_fit"])
        async def model(self, name: str) -> Any:
            return await self._models.load(name)

        async def __call__(self, request: Any) -> Any:
            from starlette.responses import JSONResponse, Response

            if request.url.path == "/loads":
                return JSONResponse({"loads": self._models.num_loads})
            asked = await request.json()
            name = serve.get_multiplexed_model_id()
            model = await self.model(name)
            return Response(await self._models.paint(name, model, ["a mill wheel"], [asked["seed"]]))

    application: Any = Painters
    return application.bind()


def main(task: dict[str, Any]) -> None:
    import ray  # pyright: ignore[reportMissingImports]
    from ray import serve  # pyright: ignore[reportMissingImports]

    ray.init(num_cpus=2, include_dashboard=False, logging_level="ERROR", _temp_dir=task["scratch"], log_to_driver=False)
    serve.start(http_options={"host": "127.0.0.1", "port": task["port"]}, logging_config={"enable_access_log": False})
    serve.run(application(task))
    print(json.dumps({"port": task["port"]}), flush=True)
    print("ready", flush=True)
    sys.stdin.read()
    serve.shutdown()
    ray.shutdown()


if __name__ == "__main__":
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    main(_TASK)
    print("{}")
