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
    """`make(job, partition)` does a run's work at its launch; `is_gone` before each answer: it ends without one.

    `status`: what a launched run has from then on.
    """

    def __init__(
        self,
        make: Callable[[str, str], object],
        is_gone: Callable[[], bool] = lambda: False,
        *,
        status: str = "SUCCESS",
    ) -> None:
        self.make, self.is_gone, self.status = make, is_gone, status
        self.runs: list[dict[str, Any]] = []
        self.ending: dict[str, Callable[[], str]] = {}

    @property
    def launched(self) -> list[str]:
        """The jobs of the runs that were launched here."""
        return [run["jobName"] for run in self.runs if run["runId"].startswith("run-")]

    def answer(self, query: str, variables: dict[str, Any]) -> dict[str, Any]:
        if "locationEntries" in query:
            loaded = {"name": "headrace", "loadStatus": "LOADED", "locationOrLoadError": {"__typename": "Location"}}
            return {"workspaceOrError": {"locationEntries": [loaded]}}
        if "addDynamicPartition" in query:
            keys = [name for name in variables if name.startswith("key_")]
            return {key: {"__typename": "AddDynamicPartitionSuccess"} for key in keys}
        if "terminateRun" in query:
            [run] = [run for run in self.runs if run["runId"] == variables["run"]]
            run["status"] = "CANCELED"
            return {"terminateRun": {"__typename": "TerminateRunSuccess"}}
        if "launchPipelineExecution" in query:
            return {"launchPipelineExecution": self._launch(variables["params"])}
        if "logsForRun" in query:
            return {"logsForRun": {"__typename": "EventConnection", "cursor": "1", "hasMore": False, "events": []}}
        wanted = {"tags": [], "runIds": [], "statuses": [], **variables["filter"]}
        tags = {(tag["key"], tag["value"]) for tag in wanted["tags"]}
        found = [
            run
            for run in self.runs
            if tags <= {(tag["key"], tag["value"]) for tag in run["tags"]}
            and run["runId"] in (wanted["runIds"] or [run["runId"]])
            and run["status"] in (wanted["statuses"] or [run["status"]])
        ]
        for run in found:
            if not wanted["statuses"] and run["runId"] in self.ending:
                run["status"] = self.ending.pop(run["runId"])()
        return {"runs": {"__typename": "Runs", "results": found[::-1]}}

    def start_elsewhere(self, job: str, partition: str, ends: Callable[[], str]) -> None:
        """A run that another started and that is under way; `ends` when it is looked at: its status then."""
        run_id = f"other-{len(self.runs)}"
        self._add(run_id, job, "STARTED", [{"key": "dagster/partition", "value": partition}])
        self.ending[run_id] = ends

    def _launch(self, params: dict[str, Any]) -> dict[str, Any]:
        tags = params["executionMetadata"]["tags"]
        job = params["selector"]["pipelineName"]
        [partition] = [tag["value"] for tag in tags if tag["key"] == "dagster/partition"]
        self.make(job, partition)
        run_id = f"run-{len(self.runs)}"
        self._add(run_id, job, self.status, tags)
        return {"__typename": "LaunchRunSuccess", "run": {"runId": run_id}}

    def _add(self, run_id: str, job: str, status: str, tags: list[dict[str, str]]) -> None:
        times = {"creationTime": 1.0, "startTime": 1.0, "updateTime": 1.0}
        self.runs.append(
            {"runId": run_id, "jobName": job, "status": status, "tags": tags, **times, "assetSelection": []}
        )


@contextmanager
def serving(stand_in: StandIn, port: int = 0) -> Iterator[int]:
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

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
