"""Talks to a project's Dagster webserver over GraphQL: launches runs as the UI does, into the instance's queue.

Imports no Dagster, so that a command which only asks starts in a fifth of the time.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import httpx2

from headrace.errors import HeadraceError
from headrace.placement.demand import REQUESTED_BY
from headrace_dagster.project.run_source import (
    ENDED,
    NUM_RUNS_MAX,
    PARTITION,
    QUEUE_DAEMON,
    UNDER_WAY,
    WAITING,
    RunsFound,
    RunsLook,
    RunState,
)
from headrace_dagster.run_failures import FailureEvent, sentence_of

REPOSITORY = "__repository__"
_LOAD_WAIT_SECONDS = 120.0
# More than any invocation launches at once, retries included.
_NUM_OWN_RUNS_MAX = 10_000
_KEYS_AT_ONCE = 100

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
_RUN_FIELDS = """
fragment Found on RunsOrError {
  __typename
  ... on Runs { %s results {
    runId status jobName creationTime startTime updateTime assetSelection { path } tags { key value } } }
  ... on PythonError { message }
  ... on InvalidPipelineRunsFilterError { message }
}
"""
_RUNS = (
    """
query Runs($filter: RunsFilter!, $limit: Int!) { runs: runsOrError(filter: $filter, limit: $limit) { ...Found } }
"""
    + _RUN_FIELDS % ""
)
_LOOK = (
    """
query Look($waiting: RunsFilter!, $under_way: RunsFilter!, $ended: RunsFilter!, $limit: Int!, $daemon: String!) {
  waiting: runsOrError(filter: $waiting, limit: $limit) { ...Found }
  under_way: runsOrError(filter: $under_way, limit: $limit) { ...Found }
  ended: runsOrError(filter: $ended, limit: $limit) { ...Found }
  instance { daemonHealth { daemonStatus(daemonType: $daemon) { lastHeartbeatTime } } }
}
"""
    + _RUN_FIELDS % "count"
)
_FAILURE = """
query Failure($run: ID!, $after: String) {
  logsForRun(runId: $run, afterCursor: $after) {
    __typename
    ... on EventConnection { cursor hasMore events {
      __typename
      ... on ExecutionStepFailureEvent {
        message error { message causes { message } } failureMetadata { description } }
      ... on RunFailureEvent { message error { message causes { message } } }
    } }
  }
}
"""
_WARNINGS = """
query Warnings($run: ID!, $after: String) {
  logsForRun(runId: $run, afterCursor: $after) {
    __typename
    ... on EventConnection { cursor hasMore events { __typename ... on LogMessageEvent { message level } } }
  }
}
"""
_RETRIES = """
query Retries($run: ID!, $after: String) {
  logsForRun(runId: $run, afterCursor: $after) {
    __typename
    ... on EventConnection { cursor hasMore events {
      __typename
      ... on ExecutionStepUpForRetryEvent { message timestamp error { message causes { message } } }
    } }
  }
}
"""
_TERMINATE = """
mutation Terminate($run: String!) { terminateRun(runId: $run) { __typename ... on PythonError { message } } }
"""


@dataclass(frozen=True, kw_only=True)
class Retry:
    """A step will be tried again. `at`: seconds since the epoch; `reason`: what its last try ended with."""

    at: float
    reason: str


class LaunchRefused(HeadraceError):
    """Dagster refused a run or a question, or does not answer."""


class WebserverGone(LaunchRefused):
    """It does not answer: who started it may have ended it."""


class Webserver:
    def __init__(self, url: str, location: str = "", *, patience_seconds: float = 60.0) -> None:
        """Args: location: the name of the project's code location; empty: nothing will be launched."""
        self.url = url
        self._location = location
        self._client = httpx2.Client(base_url=url, timeout=patience_seconds)

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
        named = {PARTITION: partition, REQUESTED_BY: requested_by, **(tags or {})}
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

    def terminate(self, run_id: str) -> None:
        """Ends a run that is not needed; one that has ended already stays as it is."""
        self._query(_TERMINATE, {"run": run_id})

    def runs(
        self, tags: Mapping[str, str] | None = None, *, run_ids: Sequence[str] = (), statuses: Sequence[str] = ()
    ) -> list[RunState]:
        """The runs that have all these tags, are one of `run_ids`, and in one of `statuses`, newest first.

        Retries keep the tags of the run they repeat.
        """
        wanted = {
            "tags": [{"key": key, "value": value} for key, value in (tags or {}).items()],
            "runIds": list(run_ids),
            "statuses": list(statuses),
        }
        asked = {name: values for name, values in wanted.items() if values}
        return _states(self._query(_RUNS, {"filter": asked, "limit": _NUM_OWN_RUNS_MAX})["runs"])

    def look(self, *, ended_since: float) -> RunsLook:
        variables = {
            "waiting": {"statuses": WAITING},
            "under_way": {"statuses": UNDER_WAY},
            "ended": {"statuses": ENDED, "updatedAfter": ended_since},
            "limit": NUM_RUNS_MAX,
            "daemon": QUEUE_DAEMON,
        }
        found = self._query(_LOOK, variables)
        return RunsLook(
            waiting=RunsFound(runs=_states(found["waiting"]), num=found["waiting"]["count"]),
            under_way=RunsFound(runs=_states(found["under_way"]), num=found["under_way"]["count"]),
            ended=_states(found["ended"]),
            daemon_seen=found["instance"]["daemonHealth"]["daemonStatus"]["lastHeartbeatTime"],
        )

    def failure_of(self, run_id: str) -> str:
        return sentence_of(self._failure_events(run_id))

    def retries_of(self, run_id: str, *, after: str | None = None) -> tuple[list[Retry], str | None]:
        """The retries of a run's steps in its log behind `after`, and where the log ends now."""
        found: list[Retry] = []
        for page in self._pages(_RETRIES, run_id, after):
            after = page.get("cursor") or after
            found += [
                Retry(at=float(event["timestamp"]) / 1000, reason=_raised(event.get("error")) or event["message"])
                for event in page.get("events", ())
                if event["__typename"] == "ExecutionStepUpForRetryEvent"
            ]
        return found, after

    def warning_of(self, run_id: str) -> str | None:
        """The last warning in a run's log."""
        warned = [
            event["message"]
            for event in self._events(_WARNINGS, run_id)
            if event["__typename"] == "LogMessageEvent" and event["level"] == "WARNING"
        ]
        return warned[-1] if warned else None

    def _failure_events(self, run_id: str) -> Iterator[FailureEvent]:
        return filter(None, map(_failure_event, self._events(_FAILURE, run_id)))

    def _events(self, query: str, run_id: str) -> Iterator[Mapping[str, Any]]:
        for page in self._pages(query, run_id):
            yield from page.get("events", ())

    def _pages(self, query: str, run_id: str, after: str | None = None) -> Iterator[Mapping[str, Any]]:
        """A run's log from `after` on: a long one's end is not in its first page."""
        has_more = True
        while has_more:
            found = self._query(query, {"run": run_id, "after": after})["logsForRun"]
            yield found
            after, has_more = found.get("cursor"), found.get("hasMore", False)

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


def _states(found: Mapping[str, Any]) -> list[RunState]:
    """Raises: LaunchRefused: Dagster does not list them."""
    if found["__typename"] != "Runs":
        raise LaunchRefused(f"Dagster does not list its runs: {_words_of(found)}")
    return [
        RunState(
            run_id=one["runId"],
            status=one["status"],
            tags={tag["key"]: tag["value"] for tag in one["tags"]},
            job_name=one["jobName"],
            assets=tuple(sorted("/".join(key["path"]) for key in one["assetSelection"] or ())),
            created=one["creationTime"],
            started=one["startTime"],
            updated=one["updateTime"],
        )
        for one in found["results"]
    ]


def _failure_event(event: Mapping[str, Any]) -> FailureEvent | None:
    of_step = event["__typename"] == "ExecutionStepFailureEvent"
    if not of_step and event["__typename"] != "RunFailureEvent":
        return None
    return FailureEvent(
        of_step=of_step,
        description=(event.get("failureMetadata") or {}).get("description"),
        error=_raised(event.get("error")),
        message=event.get("message"),
    )


def _raised(error: Mapping[str, Any] | None) -> str | None:
    """What was raised. Dagster wraps it: then it is the first cause."""
    return [*error["causes"][:1], error][0]["message"].strip() if error else None


def _words_of(result: Mapping[str, Any]) -> str:
    return (
        result.get("message") or "; ".join(one["message"] for one in result.get("errors", [])) or result["__typename"]
    )
