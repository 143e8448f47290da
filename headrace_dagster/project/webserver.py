"""Talks to a project's Dagster webserver over GraphQL: launches runs as the UI does, into the instance's queue.

Imports no Dagster, so that a command which only asks starts in a fifth of the time.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import httpx2

from headrace.errors import HeadraceError
from headrace.placement.demand import REQUESTED_BY

REPOSITORY = "__repository__"
_LOAD_WAIT_SECONDS = 120.0
# More than any invocation launches at once, retries included.
_NUM_RUNS_MAX = 10_000
_KEYS_AT_ONCE = 100
_ENDED_WELL, _ENDED_BADLY = "SUCCESS", frozenset({"FAILURE", "CANCELED"})
_WILL_RETRY, _RETRY_ID = "dagster/will_retry", "dagster/auto_retry_run_id"

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
# GraphQL adds one key at a time, but may be asked for many in one request.
_ADD_PARTITIONS = """
mutation Add($repository: RepositorySelector!, $name: String!, %s) { %s }
fragment Added on AddDynamicPartitionResult {
  __typename
  ... on PythonError { message }
  ... on UnauthorizedError { message }
}
"""
_ADD_PARTITION = (
    "{key}: addDynamicPartition(repositorySelector: $repository, partitionsDefName: $name, partitionKey: ${key}) "
    "{{ ...Added }}"
)
_RUNS = """
query Runs($filter: RunsFilter!, $limit: Int!) {
  runsOrError(filter: $filter, limit: $limit) {
    __typename
    ... on Runs { results { runId status tags { key value } } }
    ... on PythonError { message }
  }
}
"""
_FAILURE = """
query Failure($run: ID!) {
  logsForRun(runId: $run) {
    __typename
    ... on EventConnection { events {
      __typename
      ... on ExecutionStepFailureEvent { error { message causes { message } } failureMetadata { description } }
      ... on RunFailureEvent { message error { message causes { message } } }
    } }
  }
}
"""


class LaunchRefused(HeadraceError):
    """Dagster refused a run or a question, or does not answer."""


class WebserverGone(LaunchRefused):
    """It does not answer: who started it may have ended it."""


@dataclass(frozen=True, kw_only=True)
class RunState:
    """One run as the instance knows it. A failed one that Dagster is about to retry has not ended."""

    run_id: str
    status: str
    tags: Mapping[str, str]

    @property
    def partition(self) -> str:
        return self.tags.get("dagster/partition", "")

    @property
    def has_succeeded(self) -> bool:
        return self.status == _ENDED_WELL

    @property
    def has_failed(self) -> bool:
        """For good: its retry, if there will be one, is another run."""
        return self.status in _ENDED_BADLY and self.tags.get(_WILL_RETRY) != "true"

    @property
    def is_retried_soon(self) -> bool:
        return self.status in _ENDED_BADLY and not self.has_failed and _RETRY_ID not in self.tags


class Webserver:
    def __init__(self, url: str, location: str) -> None:
        """Args: location: the name of the project's code location."""
        self.url = url
        self._location = location
        self._client = httpx2.Client(base_url=url, timeout=60)

    def close(self) -> None:
        self._client.close()

    def wait_for_location(self) -> None:
        """Raises: LaunchRefused: the code location does not load; has Dagster's reason."""
        deadline = time.monotonic() + _LOAD_WAIT_SECONDS
        while time.monotonic() < deadline:
            entries = self._query(_LOCATION_STATUS)["workspaceOrError"].get("locationEntries", [])
            for entry in entries:
                if entry["name"] == self._location and entry["loadStatus"] == "LOADED":
                    loaded = entry["locationOrLoadError"]
                    if loaded["__typename"] == "PythonError":
                        raise LaunchRefused(f"The code location does not load: {loaded['message'].strip()}")
                    return
            time.sleep(0.5)
        raise LaunchRefused(f"The code location did not load within {_LOAD_WAIT_SECONDS:.0f} s; see the logs.")

    def add_partitions(self, name: str, keys: Sequence[str]) -> None:
        """Adds keys to a dynamic partitions definition; those that are there stay.

        Raises:
            LaunchRefused: Dagster refuses one.
        """
        repository = {"repositoryName": REPOSITORY, "repositoryLocationName": self._location}
        for start in range(0, len(keys), _KEYS_AT_ONCE):
            given = {f"key_{number}": key for number, key in enumerate(keys[start : start + _KEYS_AT_ONCE])}
            declared = ", ".join(f"${one}: String!" for one in given)
            query = _ADD_PARTITIONS % (declared, " ".join(_ADD_PARTITION.format(key=one) for one in given))
            for one, result in self._query(query, {"repository": repository, "name": name, **given}).items():
                if result["__typename"] not in {"AddDynamicPartitionSuccess", "DuplicateDynamicPartitionError"}:
                    raise LaunchRefused(f"Dagster refused the partition {given[one]} of {name}: {_words_of(result)}")

    def launch(
        self,
        job: str,
        partition: str,
        *,
        requested_by: str,
        run_config: dict[str, Any] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> str:
        """Queues one run of `job` on one partition. Returns its run id.

        Raises:
            LaunchRefused: Dagster refuses the run; has Dagster's words.
        """
        named = {"dagster/partition": partition, REQUESTED_BY: requested_by, **(tags or {})}
        if "|" in partition:
            named["dagster/partition/day"], named["dagster/partition/shard"] = partition.split("|", 1)
        params = {
            "selector": {
                "repositoryName": REPOSITORY,
                "repositoryLocationName": self._location,
                "pipelineName": job,
            },
            "runConfigData": run_config or {},
            "mode": "default",
            "executionMetadata": {"tags": [{"key": key, "value": value} for key, value in named.items()]},
        }
        result = self._query(_LAUNCH, {"params": params})["launchPipelineExecution"]
        if result["__typename"] != "LaunchRunSuccess":
            raise LaunchRefused(f"Dagster refused to launch {job}[{partition}]: {_words_of(result)}")
        return result["run"]["runId"]

    def runs(self, tags: Mapping[str, str]) -> list[RunState]:
        """The runs that have all these tags, newest first; retries keep the tags of the run they repeat."""
        wanted = {"tags": [{"key": key, "value": value} for key, value in tags.items()]}
        found = self._query(_RUNS, {"filter": wanted, "limit": _NUM_RUNS_MAX})["runsOrError"]
        if found["__typename"] != "Runs":
            raise LaunchRefused(f"Dagster does not list its runs: {_words_of(found)}")
        return [
            RunState(
                run_id=one["runId"],
                status=one["status"],
                tags={tag["key"]: tag["value"] for tag in one["tags"]},
            )
            for one in found["results"]
        ]

    def failure_of(self, run_id: str) -> str:
        """Why a run failed: the sentence of its first failed step, else of the run."""
        events = self._query(_FAILURE, {"run": run_id})["logsForRun"].get("events", [])
        for kind in ("ExecutionStepFailureEvent", "RunFailureEvent"):
            for event in events:
                if event["__typename"] != kind:
                    continue
                if described := (event.get("failureMetadata") or {}).get("description"):
                    return described
                if error := event.get("error"):
                    return (error["causes"][-1] if error["causes"] else error)["message"].strip()
                if event.get("message"):
                    return event["message"]
        return "no reason recorded"

    def _query(self, query: str, variables: dict[str, Any] | None = None) -> dict[str, Any]:
        try:
            response = self._client.post("/graphql", json={"query": query, "variables": variables or {}})
            body = response.json()
        except httpx2.HTTPError as error:
            raise WebserverGone(f"The Dagster webserver does not answer: {error!r}.") from error
        except ValueError as error:
            raise WebserverGone(f"What answers at {self.url} is no Dagster webserver: {error}.") from error
        if body.get("errors"):
            raise LaunchRefused(f"Dagster's GraphQL refused a query: {body['errors'][0]['message']}")
        return body["data"]


def _words_of(result: Mapping[str, Any]) -> str:
    return (
        result.get("message") or "; ".join(one["message"] for one in result.get("errors", [])) or result["__typename"]
    )
