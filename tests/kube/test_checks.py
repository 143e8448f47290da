import copy
from collections.abc import Callable
from typing import Any

import kubernetes_validate
import pytest

from headrace.kube.checks import check_job, check_pod
from tests.kube.builders import GPU, make_job


def container(job: dict[str, Any]) -> dict[str, Any]:
    return job["spec"]["template"]["spec"]["containers"][0]


def resources(job: dict[str, Any]) -> dict[str, Any]:
    return container(job)["resources"]


def pod_spec(job: dict[str, Any]) -> dict[str, Any]:
    return job["spec"]["template"]["spec"]


def affinity_to_nothing() -> dict[str, Any]:
    terms = [{"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": []}]}]
    return {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}}


FAULTS: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "restarts": (lambda job: pod_spec(job).update(restartPolicy="Always"), "restartPolicy must be Never, got Always"),
    "restarts on failure": (lambda job: pod_spec(job).update(restartPolicy="OnFailure"), "got OnFailure"),
    "no restart policy": (lambda job: pod_spec(job).pop("restartPolicy"), "got none, which means Always"),
    "retried by Kubernetes": (lambda job: job["spec"].pop("backoffLimit"), "backoffLimit must be 0, got none"),
    "twice at once": (lambda job: job["spec"].update(parallelism=2), "parallelism must be 1, got 2"),
    "a name with capitals": (lambda job: job["metadata"].update(name="Run"), "Job name 'Run' must be 1 to 63"),
    "a name that is too long": (lambda job: job["metadata"].update(name="a" * 64), "Job name"),
    "no name": (lambda job: job["metadata"].pop("name"), "Job name ''"),
    "a label's value": (lambda job: job["metadata"]["labels"].update(a="b c"), "label a='b c' must have at most 63"),
    "a label's key": (lambda job: job["metadata"]["labels"].update({"a/b/c": "d"}), "label key 'a/b/c' must be"),
    "less requested than its limit": (
        lambda job: resources(job)["requests"].update({GPU: "1"}),
        f"requests 1 of {GPU}, and its limit is 2: they must be equal",
    ),
    "no limit of GPUs": (lambda job: resources(job)["limits"].pop(GPU), f"requests {GPU} without a limit"),
    "half a GPU": (
        lambda job: resources(job).update(limits={GPU: "0.5"}, requests={GPU: "500m"}),
        f"asks for 0.5 of {GPU}: only whole units",
    ),
    "less than no GPU": (
        lambda job: resources(job).update(limits={GPU: "-1"}, requests={}),
        f"{GPU} must not be negative",
    ),
    "more memory requested than its limit": (
        lambda job: resources(job)["requests"].update(memory="2Gi"),
        "requests 2Gi of memory, and its limit is 1Gi",
    ),
    "no quantity": (lambda job: resources(job)["limits"].update(cpu="many"), "'many' is not a Kubernetes quantity"),
    "no container": (lambda job: pod_spec(job).update(containers=[]), "A pod needs a container."),
    "no image": (lambda job: container(job).pop("image"), "Container 'dagster' has no image"),
    "a container's name": (lambda job: container(job).update(name="Main"), "Container name 'Main' must be"),
    "two of a name": (
        lambda job: pod_spec(job)["containers"].append(copy.deepcopy(container(job))),
        "Two containers are called 'dagster'.",
    ),
    "affinity to nothing": (
        lambda job: pod_spec(job).update(affinity=affinity_to_nothing()),
        "Node affinity on kubernetes.io/hostname names no value",
    ),
    "a queue without suspension": (
        lambda job: job["metadata"]["labels"].update({"kueue.x-k8s.io/queue-name": "q"}),
        "must be suspended: Kueue starts it",
    ),
}


def test_a_job_that_is_right_has_no_fault() -> None:
    job = make_job()
    kubernetes_validate.validate(job, "1.37", strict=True)
    assert check_job(job) == []


@pytest.mark.parametrize("case", FAULTS)
def test_each_fault_is_named(case: str) -> None:
    spoil, words = FAULTS[case]
    job = make_job()
    spoil(job)
    (fault,) = check_job(job)
    assert words in fault


def test_a_suspended_job_of_a_queue_is_right() -> None:
    job = make_job()
    job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] = "q"
    job["spec"]["suspend"] = True
    assert check_job(job) == []


def test_all_faults_are_named_at_once() -> None:
    assert len(check_job({})) == 4


def test_a_pod_is_checked_as_a_jobs_is() -> None:
    job = make_job(restartPolicy="Always")
    pod = {"metadata": {"name": "a-pod"}, "spec": job["spec"]["template"]["spec"]}
    (fault,) = check_pod(pod)
    assert "restartPolicy must be Never" in fault
