"""Run tags that should hold records: anybody who starts a run may write them."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from dagster import DagsterRun

from headrace_dagster.coordinator.admission import PLACEMENT_TAG, PREEMPTED_TAG, admission_of
from headrace_dagster.launchers.eviction import last_eviction
from headrace_dagster.launchers.gpu_k8s_launcher import RUN_POD_TAG, run_pod_of
from headrace_dagster.launchers.process_launcher import WORKER_TAG, worker_of
from headrace_dagster.launchers.signs_of_life import SILENT_TAG, recorded_silence

RUN_ID = "11111111-2222-3333-4444-555555555555"
_PLACEMENT = json.dumps({"gpus": [["node-a", "0", 1000]], "hosts": []})
# Tag → its reader, and the fields of a record beside the run's id.
_READERS: dict[str, tuple[Callable[[DagsterRun], Any], dict[str, Any]]] = {
    PLACEMENT_TAG: (admission_of, {"at": 3, "placement": _PLACEMENT}),
    PREEMPTED_TAG: (last_eviction, {"at": 3.5, "num": 1}),
    RUN_POD_TAG: (run_pod_of, {"config": {"a": 1}}),
    WORKER_TAG: (worker_of, {"host": "here", "pid": 1, "started": "boot/7"}),
    SILENT_TAG: (recorded_silence, {"since": 1.0, "what": "sleeps"}),
}


def read(tag: str, text: str) -> Any:
    return _READERS[tag][0](DagsterRun(job_name="job", run_id=RUN_ID, tags={tag: text}))


@pytest.mark.parametrize("tag", _READERS)
def test_what_is_no_record_counts_as_none(tag: str) -> None:
    fields = {"run_id": RUN_ID, **_READERS[tag][1]}
    assert read(tag, json.dumps(fields))
    lacking = [{key: value for key, value in fields.items() if key != left_out} for left_out in fields]
    wrong = [{**fields, key: [value]} for key, value in fields.items()]
    texts = ["", "{}", "[]", "null", "foobar", "[" * 100_000, *map(json.dumps, [*lacking, *wrong])]
    assert [text for text in texts if read(tag, text) is not None] == []


@pytest.mark.parametrize("tag", sorted(_READERS.keys() - {PREEMPTED_TAG}))
def test_a_record_of_another_run_counts_as_none(tag: str) -> None:
    assert read(tag, json.dumps({"run_id": "another", **_READERS[tag][1]})) is None
