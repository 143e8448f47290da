import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kubernetes.client import ApiClient, BatchV1Api, Configuration, CoreV1Api

from headrace.kube import cluster
from headrace.kube.answers import NotAnAnswer, listed
from headrace.kube.cluster import Cluster, ClusterUnavailable
from headrace.kube.nodes import node_faults, nodes_to_inventory
from headrace.kube.occupancy import is_over, occupied_runs
from tests.answering import answering
from tests.kube.builders import make_job, make_node
from tests.kube.mock_cluster import JOBS, NODES, PODS, MockCluster, mock_cluster


@pytest.fixture(scope="module")
def server() -> Iterator[MockCluster]:
    with mock_cluster() as server:
        yield server


def make_cluster(url: str) -> Cluster:
    client = ApiClient(Configuration(host=url))
    return Cluster(BatchV1Api(client), CoreV1Api(client), namespaces=["default"])


def test_jobs_and_pods_of_one_run_are_told_from_others(server: MockCluster) -> None:
    cluster = make_cluster(server.url)
    server.ask("POST", JOBS, make_job())
    server.add_pod("of-run-2", "2")
    server.ask("POST", PODS, {"metadata": {"name": "of-nobody"}})
    assert [job["metadata"]["name"] for job in cluster.jobs_of_runs()] == ["dagster-run-1"]
    assert [pod["metadata"]["name"] for pod in cluster.pods_of_runs()] == ["of-run-2"]
    assert cluster.jobs_of_runs("2") == []
    assert len(cluster.pods_of_runs("2")) == 1
    assert len(cluster.pods()) == 2


def test_nodes_are_plain_dicts(server: MockCluster) -> None:
    node = make_node()
    server.ask("POST", NODES, node)
    assert make_cluster(server.url).nodes() == [node]


def test_deleting_what_is_gone_is_no_error(server: MockCluster) -> None:
    assert make_cluster(server.url).delete_job("dagster-run-9", "default") is False


def test_a_list_is_read_to_its_end(server: MockCluster) -> None:
    cluster = make_cluster(server.url)
    first = {"metadata": {"continue": "more"}, "items": [{"metadata": {"name": "a"}}]}
    second = {"metadata": {}, "items": [{"metadata": {"name": "b"}}]}
    _ = server.emulator["get /api/v1/pods"] << (lambda request: second if "continue" in request.url.query else first)
    assert [pod["metadata"]["name"] for pod in cluster.pods()] == ["a", "b"]
    asked = [query for _, path, query in server.requests() if path == "/api/v1/pods"]
    assert asked[-2:] == [{"limit": "500"}, {"continue": "more", "limit": "500"}]


def test_no_answer_is_not_an_empty_list() -> None:
    with mock_cluster() as server:
        url = server.url
    with pytest.raises(ClusterUnavailable, match="did not list Jobs in namespace default.*Nothing is assumed"):
        make_cluster(url).jobs_of_runs()


def test_what_the_role_forbids_is_named() -> None:
    with mock_cluster() as server:
        server.refuse(NODES, 403)
        with pytest.raises(ClusterUnavailable, match="forbids Dagster's service account to list nodes") as refused:
            make_cluster(server.url).nodes()
    assert refused.value.is_forbidden


def test_a_page_that_has_gone_stale_is_no_end_of_the_list() -> None:
    with mock_cluster() as server:
        server.refuse(JOBS, 410)
        with pytest.raises(ClusterUnavailable, match="410"):
            make_cluster(server.url).jobs_of_runs()


@pytest.mark.parametrize(
    ("status", "over"),
    [
        ({}, False),
        ({"active": 1}, False),
        ({"active": 1, "failed": 1}, False),
        ({"failed": 1}, True),
        ({"conditions": [{"type": "Suspended", "status": "True"}]}, False),
        ({"conditions": [{"type": "FailureTarget", "status": "True"}]}, False),
        ({"conditions": [{"type": "Complete", "status": "True"}]}, True),
        ({"conditions": [{"type": "Failed", "status": "False"}]}, False),
    ],
)
def test_a_job_is_over_when_it_makes_no_pod_any_more(status: dict[str, object], over: bool) -> None:
    job = {"metadata": {"labels": {"dagster/run-id": "1"}}, "status": status}
    assert is_over(job) == over
    assert occupied_runs([job], []) == (set() if over else {"1"})


@pytest.mark.parametrize("phase", ["Pending", "Running", "Unknown"])
def test_a_pod_occupies_by_itself(phase: str) -> None:
    pod = {"metadata": {"labels": {"dagster/run-id": "1"}}, "status": {"phase": phase}}
    assert occupied_runs([], [pod, {"metadata": {}}]) == {"1"}


@pytest.mark.parametrize(
    ("body", "why"),
    {
        "nothing": ("", r"no JSON \(JSONDecodeError\): nothing"),
        "a proxy's page": ("<html>Sign in</html>", "no JSON .*<html>Sign in</html>"),
        "an empty object": ("{}", "what is no list of objects"),
        "a list of its own": ("[]", "what is no list of objects"),
        "another service": ('{"status": "ok"}', "what is no list of objects"),
        "deep": ("[" * 100_000, r"no JSON \(RecursionError\)"),
        "items of a text": ('{"items": "x"}', "items or metadata are of other types"),
        "objects of numbers": ('{"items": [7]}', "object 0 of its list is of type int"),
        "an object without a name": ('{"items": [{"metadata": {}}]}', "object 0 of its list has no name"),
        "labels of a list": (
            '{"items": [{"metadata": {"name": "a", "labels": [1]}}]}',
            "a metadata.labels of type list",
        ),
        "labels of numbers": (
            '{"items": [{"metadata": {"name": "a", "labels": {"b": 1}}}]}',
            "metadata.labels of type dict",
        ),
        "a status of a text": ('{"items": [{"metadata": {"name": "a"}, "status": "up"}]}', "a status of type str"),
        "a token of a number": ('{"items": [], "metadata": {"continue": 7}}', "items or metadata are of other types"),
        "no end": ('{"items": [], "metadata": {"continue": "again"}}', "has no end of nodes"),
    }.values(),
)
def test_what_is_no_answer_of_kubernetes_is_told_and_nothing_is_assumed(
    body: str, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "_NUM_PAGES_MAX", 3)
    with answering(200, body) as url, pytest.raises(ClusterUnavailable, match=f"{why}.*Nothing is assumed"):
        make_cluster(url).nodes()


def test_an_answer_without_end_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "_PAGE_BYTES_MAX", 1000)
    with answering(200, " " * 5000) as url, pytest.raises(ClusterUnavailable, match="longer than 1000 bytes"):
        make_cluster(url).pods()


odd: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)


@given(
    st.dictionaries(st.sampled_from(["spec", "status", "kind"]), odd), st.dictionaries(st.text(max_size=4), odd), odd
)
def test_whatever_is_listed_can_be_read_or_is_no_answer(
    item: dict[str, Any], labels: dict[str, Any], name: Any
) -> None:
    body = {"items": [{"metadata": {"name": name, "labels": labels}, **item}]}
    try:
        found, _ = listed(json.dumps(body).encode())
    except NotAnAnswer:
        return
    occupied_runs(found, found)
    [node_faults(each) for each in found]


@pytest.mark.parametrize("label", ["", "lots", "-1", "1e3", "9" * 400, "\u0663"])
def test_a_label_that_is_no_number_costs_nobody_the_inventory(label: str) -> None:
    node = make_node(labels={"nvidia.com/gpu.memory": label, "nvidia.com/gpu.replicas": label})
    (found,) = nodes_to_inventory([node], []).nodes
    assert [gpu.memory_mib for gpu in found.gpus] == [0, 0, 0, 0]
