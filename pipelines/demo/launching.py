"""Launches runs as the UI does: over GraphQL, into the instance's queue."""

import time
from typing import Any

import httpx2

from headrace.errors import HeadraceError

REPOSITORY = "__repository__"
LOCATION = "headrace"
_LOAD_WAIT_SECONDS = 120.0

_LAUNCH = """
mutation Launch($params: ExecutionParams!) {
  launchPipelineExecution(executionParams: $params) {
    __typename
    ... on LaunchRunSuccess { run { runId } }
    ... on PythonError { message }
    ... on RunConfigValidationInvalid { errors { message } }
    ... on PipelineNotFoundError { message }
    ... on InvalidSubsetError { message }
    ... on UnauthorizedError { message }
  }
}
"""
_LOCATION_STATUS = """
{ workspaceOrError { ... on Workspace { locationEntries {
    name loadStatus locationOrLoadError { __typename ... on PythonError { message } } } } } }
"""


class LaunchRefused(HeadraceError):
    """Dagster refused a run."""


class Launcher:
    def __init__(self, url: str) -> None:
        self._client = httpx2.Client(base_url=url, timeout=60)

    def close(self) -> None:
        self._client.close()

    def wait_for_location(self) -> None:
        """Raises: LaunchRefused: the code location does not load; has Dagster's reason."""
        deadline = time.monotonic() + _LOAD_WAIT_SECONDS
        while time.monotonic() < deadline:
            entries = self._query(_LOCATION_STATUS)["workspaceOrError"].get("locationEntries", [])
            for entry in entries:
                if entry["name"] == LOCATION and entry["loadStatus"] == "LOADED":
                    loaded = entry["locationOrLoadError"]
                    if loaded["__typename"] == "PythonError":
                        raise LaunchRefused(f"The code location does not load: {loaded['message'].strip()}")
                    return
            time.sleep(0.5)
        raise LaunchRefused(f"The code location did not load within {_LOAD_WAIT_SECONDS:.0f} s; see the logs.")

    def launch(self, job: str, partition: str, *, run_config: dict[str, Any] | None = None) -> str:
        """Queues one run of `job` on one partition. Returns its run id.

        Raises:
            LaunchRefused: Dagster refuses the run; has Dagster's words.
        """
        tags = {"dagster/partition": partition, "headrace/requested_by": "demo"}
        if "|" in partition:
            tags["dagster/partition/day"], tags["dagster/partition/shard"] = partition.split("|", 1)
        params = {
            "selector": {
                "repositoryName": REPOSITORY,
                "repositoryLocationName": LOCATION,
                "pipelineName": job,
            },
            "runConfigData": run_config or {},
            "mode": "default",
            "executionMetadata": {"tags": [{"key": key, "value": value} for key, value in tags.items()]},
        }
        result = self._query(_LAUNCH, {"params": params})["launchPipelineExecution"]
        if result["__typename"] != "LaunchRunSuccess":
            words = result.get("message") or "; ".join(error["message"] for error in result.get("errors", []))
            raise LaunchRefused(f"Dagster refused to launch {job}[{partition}]: {words or result['__typename']}")
        return result["run"]["runId"]

    def _query(self, query: str, variables: dict[str, Any] | None = None) -> dict[str, Any]:
        try:
            response = self._client.post("/graphql", json={"query": query, "variables": variables or {}})
        except httpx2.HTTPError as error:
            raise LaunchRefused(f"The Dagster webserver does not answer: {error!r}.") from error
        body = response.json()
        if body.get("errors"):
            raise LaunchRefused(f"Dagster's GraphQL refused a query: {body['errors'][0]['message']}")
        return body["data"]
