"""What stands where a project's webserver should: over HTTP it answers the queries of `headrace run`, and makes what a
launched run would make, in a real store. Starting Dagster's services costs ten seconds each time.
"""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class StandIn:
    """`make(job, partition)` does a run's work at its launch; `is_gone` before each answer: it ends without one."""

    def __init__(self, make: Callable[[str, str], object], is_gone: Callable[[], bool] = lambda: False) -> None:
        self.make, self.is_gone = make, is_gone
        self.runs: list[dict[str, Any]] = []

    @property
    def launched(self) -> list[str]:
        return [run["jobName"] for run in self.runs]

    def answer(self, query: str, variables: dict[str, Any]) -> dict[str, Any]:
        if "locationEntries" in query:
            loaded = {"name": "headrace", "loadStatus": "LOADED", "locationOrLoadError": {"__typename": "Location"}}
            return {"workspaceOrError": {"locationEntries": [loaded]}}
        if "addDynamicPartition" in query:
            keys = [name for name in variables if name.startswith("key_")]
            return {key: {"__typename": "AddDynamicPartitionSuccess"} for key in keys}
        if "launchPipelineExecution" in query:
            return {"launchPipelineExecution": self._launch(variables["params"])}
        wanted = {(tag["key"], tag["value"]) for tag in variables["filter"]["tags"]}
        found = [run for run in self.runs if wanted <= {(tag["key"], tag["value"]) for tag in run["tags"]}]
        return {"runs": {"__typename": "Runs", "results": found[::-1]}}

    def _launch(self, params: dict[str, Any]) -> dict[str, Any]:
        tags = params["executionMetadata"]["tags"]
        job = params["selector"]["pipelineName"]
        [partition] = [tag["value"] for tag in tags if tag["key"] == "dagster/partition"]
        self.make(job, partition)
        run = {"runId": f"run-{len(self.runs)}", "jobName": job, "status": "SUCCESS", "tags": tags}
        times = {"creationTime": 1.0, "startTime": 1.0, "updateTime": 1.0}
        self.runs.append({**run, **times, "assetSelection": []})
        return {"__typename": "LaunchRunSuccess", "run": {"runId": run["runId"]}}


@contextmanager
def serving(stand_in: StandIn) -> Iterator[int]:
    """Its port."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if stand_in.is_gone():
                self.close_connection = True
                return
            raw = json.dumps({"data": stand_in.answer(asked["query"], asked["variables"])}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(raw)))
            self.end_headers()
            self.wfile.write(raw)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (the base class names it so)
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
