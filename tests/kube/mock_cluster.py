"""A mock of the Kubernetes API over real HTTP, in a thread of its own.

It keeps what it is sent, and neither validates nor schedules: a test plays the controller and the kubelet.
"""

import asyncio
import json
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import kmock
import yaml
from kmock import KubernetesEmulator, Server

JOBS = "/apis/batch/v1/namespaces/default/jobs"
PODS = "/api/v1/namespaces/default/pods"
NODES = "/api/v1/nodes"
EVENTS = "/api/v1/namespaces/default/events"


class Emulator(KubernetesEmulator):
    async def _handle(self, request: Any) -> Any:
        """The API server writes an object's namespace into it."""
        if request.action == kmock.action.CREATE and request.namespace:
            request.data["metadata"].setdefault("namespace", request.namespace)
        return await super()._handle(request)

    async def _serve_list(self, request: Any) -> Any:
        """Label selectors `a,b=c` and field selectors on names; others select everything."""
        listed: Any = await super()._serve_list(request)
        labels, fields = request.url.query.get("labelSelector", ""), request.url.query.get("fieldSelector", "")
        listed["items"] = [each for each in listed["items"] if _is_selected(each, labels, fields)]
        return listed


def _is_selected(manifest: dict[str, Any], labels: str, fields: str) -> bool:
    own = manifest["metadata"].get("labels") or {}
    for selector in filter(None, labels.split(",")):
        key, equals, value = selector.partition("=")
        if key not in own or (equals and own[key] != value):
            return False
    key, _, value = fields.partition("=")
    return key != "metadata.name" or manifest["metadata"]["name"] == value


class MockCluster:
    def __init__(self, emulator: KubernetesEmulator, url: str) -> None:
        self.emulator = emulator
        self.url = url.rstrip("/")

    def ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        request = urllib.request.Request(
            self.url + path,
            method=method,
            data=json.dumps(body).encode() if body is not None else None,
            headers={"Content-Type": "application/json"},
        )
        # No proxy of the environment stands between a test and its own process.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, timeout=10) as answer:
            return json.loads(answer.read() or b"{}")

    def jobs(self) -> list[dict[str, Any]]:
        return self.ask("GET", JOBS)["items"]

    def set_status(self, job: dict[str, Any], **status: Any) -> None:
        self.ask("PATCH", f"{JOBS}/{job['metadata']['name']}", {"status": status})

    def keep_until_pods_are_gone(self, job: dict[str, Any]) -> None:
        """As the API does for a foreground deletion; the mock knows no propagation policy."""
        self.ask("PATCH", f"{JOBS}/{job['metadata']['name']}", {"metadata": {"finalizers": ["foregroundDeletion"]}})

    def pods_are_gone(self, job: dict[str, Any]) -> None:
        self.ask("PATCH", f"{JOBS}/{job['metadata']['name']}", {"metadata": {"finalizers": []}})

    def add_pod(self, name: str, run_id: str, phase: str = "Running", **spec: Any) -> None:
        metadata = {"name": name, "namespace": "default", "labels": {"dagster/run-id": run_id}}
        self.ask("POST", PODS, {"metadata": metadata, "spec": spec, "status": {"phase": phase}})

    def delete_pod(self, name: str) -> None:
        self.ask("DELETE", f"{PODS}/{name}")

    def refuse(self, path: str, status: int, *, times: int | None = None) -> None:
        """Answer the next requests for a path (`get /api…`: of one method) so, or all of them."""
        requests = self.emulator[path]
        _ = (requests if times is None else requests[:times]) << status

    def requests(self) -> list[tuple[str, str, dict[str, Any]]]:
        """Method, path and query parameters of everything that was asked."""
        return [(str(each.method.value), str(each.url.path), dict(each.url.query)) for each in self.emulator]


@contextmanager
def mock_cluster() -> Iterator[MockCluster]:
    ready = threading.Event()
    found: list[MockCluster] = []
    stopping: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []

    async def serve() -> None:
        stop = asyncio.Event()
        stopping.append((asyncio.get_running_loop(), stop))
        emulator = Emulator()
        # Kinds that exist though no object does.
        for kind in ("batch/v1/jobs", "v1/pods", "v1/nodes", "v1/events"):
            _ = emulator.resources[kind]
        async with emulator, Server(emulator) as server:
            found.append(MockCluster(emulator, str(server.url)))
            ready.set()
            await stop.wait()

    thread = threading.Thread(target=lambda: asyncio.run(serve()), name="mock-cluster", daemon=True)
    thread.start()
    assert ready.wait(10), "The mock cluster did not start."
    try:
        yield found[0]
    finally:
        loop, stop = stopping[0]
        loop.call_soon_threadsafe(stop.set)
        thread.join(10)


def kubeconfig(url: str, directory: Path) -> str:
    path = directory / "kubeconfig.yaml"
    path.write_text(
        yaml.safe_dump(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "current-context": "mock",
                "clusters": [{"name": "mock", "cluster": {"server": url}}],
                "users": [{"name": "mock", "user": {"token": "none"}}],
                "contexts": [{"name": "mock", "context": {"cluster": "mock", "user": "mock"}}],
            }
        )
    )
    return str(path)


def launcher_config(url: str, directory: Path) -> dict[str, Any]:
    """Of dagster-k8s's run launcher, or of ours."""
    return {
        "load_incluster_config": False,
        "kubeconfig_file": kubeconfig(url, directory),
        "service_account_name": "dagster",
        "instance_config_map": "dagster-instance",
        "job_image": "pipelines:1",
    }
