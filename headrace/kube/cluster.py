"""Reads the Kubernetes API as plain dicts; the only file that imports its client.

Lists come straight from the API server's storage, never from its watch cache, since a Job that was created a moment ago
must be seen. An API that does not answer is an error, not an empty list: nothing may be admitted on ignorance.
"""

import time
from collections.abc import Callable, Sequence
from typing import Any

from headrace.errors import Transient
from headrace.kube.answers import NotAnAnswer, listed
from headrace.kube.occupancy import RUN_ID, run_of

_REQUEST_SECONDS = 20.0
# The API server's own clients use this page size: one answer stays below a few MB.
_PAGE = 500
# A million objects: with more pages, the server repeats itself.
_NUM_PAGES_MAX = 2000
# 500 objects of the largest size in etcd would need three times as much; pods have some 10 KB.
_PAGE_BYTES_MAX = 268_435_456
_PAGE_SECONDS_MAX = 60.0
_CHUNK_BYTES = 1 << 20
_FORBIDDEN = 403
_NOT_FOUND = 404


class ClusterUnavailable(Transient):
    """The Kubernetes API does not answer now, or refuses us."""

    def __init__(self, message: str, *, is_forbidden: bool = False) -> None:
        super().__init__(message)
        self.is_forbidden = is_forbidden


class Cluster:
    """The runs' Jobs and pods in some namespaces, and all nodes.

    Args:
        batch_api: a `kubernetes.client.BatchV1Api`.
        core_api: a `kubernetes.client.CoreV1Api`.
    """

    def __init__(self, batch_api: Any, core_api: Any, *, namespaces: Sequence[str]) -> None:
        self._batch_api = batch_api
        self._core_api = core_api
        self.namespaces = tuple(namespaces)

    def jobs_of_runs(self, run_id: str | None = None) -> list[dict[str, Any]]:
        """Raises: ClusterUnavailable."""
        return self._of_runs(self._batch_api.list_namespaced_job, "Jobs", run_id)

    def pods_of_runs(self, run_id: str | None = None) -> list[dict[str, Any]]:
        """Raises: ClusterUnavailable."""
        return self._of_runs(self._core_api.list_namespaced_pod, "pods", run_id)

    def nodes(self) -> list[dict[str, Any]]:
        """Needs a ClusterRole that may list nodes. Raises: ClusterUnavailable."""
        return self._pages(self._core_api.list_node, "nodes")

    def pods(self) -> list[dict[str, Any]]:
        """Lists all namespaces' pods; needs a ClusterRole that may list pods. Raises: ClusterUnavailable."""
        return self._pages(self._core_api.list_pod_for_all_namespaces, "pods of all namespaces")

    def delete_job(self, name: str, namespace: str) -> bool:
        """Requests the end of a Job and its pods; the Job stays, marked for deletion, until they are gone.

        Without a propagation policy the API would orphan a Job's pods, which would then hold their GPUs unseen.

        Returns:
            False if the Job does not exist.

        Raises:
            ClusterUnavailable: the Job may still exist.
        """
        return self._delete(f"Job {namespace}/{name}", self._batch_api.delete_namespaced_job, name, namespace)

    def delete_pod(self, name: str, namespace: str) -> bool:
        """Requests the end of a pod that no Job owns any more; as `delete_job`."""
        return self._delete(f"pod {namespace}/{name}", self._core_api.delete_namespaced_pod, name, namespace)

    def _delete(self, what: str, delete: Callable[..., Any], name: str, namespace: str) -> bool:
        def ask() -> bool:
            delete(
                name=name,
                namespace=namespace,
                propagation_policy="Foreground",
                _request_timeout=_REQUEST_SECONDS,
                _preload_content=False,
            )
            return True

        return bool(self._asked(f"delete {what}", ask))

    def _of_runs(self, list_page: Callable[..., Any], what: str, run_id: str | None) -> list[dict[str, Any]]:
        selector = RUN_ID if run_id is None else f"{RUN_ID}={run_id}"
        found = [
            manifest
            for namespace in self.namespaces
            for manifest in self._pages(
                list_page, f"{what} in namespace {namespace}", namespace=namespace, label_selector=selector
            )
        ]
        return [manifest for manifest in found if run_of(manifest) and run_id in (None, run_of(manifest))]

    def _pages(self, list_page: Callable[..., Any], what: str, **arguments: Any) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        token = ""
        for _ in range(_NUM_PAGES_MAX):
            more = {"_continue": token} if token else {}
            page = self._asked(
                f"list {what}",
                lambda more=more: listed(
                    _whole(
                        list_page(
                            **arguments, **more, limit=_PAGE, _request_timeout=_REQUEST_SECONDS, _preload_content=False
                        )
                    )
                ),
            )
            if page is None:
                raise ClusterUnavailable(f"The Kubernetes API knows no {what}.")
            items, token = page
            found += items
            if not token:
                return found
        raise ClusterUnavailable(f"The Kubernetes API has no end of {what}. Nothing is assumed.")

    def _asked(self, what: str, ask: Callable[[], Any]) -> Any:
        """The answer; None if the object does not exist."""
        from kubernetes.client.rest import ApiException
        from urllib3.exceptions import HTTPError

        try:
            return ask()
        except ApiException as error:
            if error.status == _NOT_FOUND:
                return None
            if error.status == _FORBIDDEN:
                raise ClusterUnavailable(
                    f"The Kubernetes API forbids Dagster's service account to {what}: allow it in its Role.",
                    is_forbidden=True,
                ) from error
            raise ClusterUnavailable(
                f"The Kubernetes API did not {what}: {error.status} {error.reason}. Nothing is assumed."
            ) from error
        except (HTTPError, ValueError) as error:
            raise ClusterUnavailable(f"The Kubernetes API did not {what}: {error}. Nothing is assumed.") from error


def _whole(response: Any) -> bytes:
    """A response's body. Raises: NotAnAnswer: the body is too large, or too slow."""
    ends_at = time.monotonic() + _PAGE_SECONDS_MAX
    parts: list[bytes] = []
    num_bytes = 0
    try:
        for part in response.stream(_CHUNK_BYTES):
            parts.append(part)
            num_bytes += len(part)
            if num_bytes > _PAGE_BYTES_MAX:
                raise NotAnAnswer(f"its answer is longer than {_PAGE_BYTES_MAX} bytes")
            if time.monotonic() > ends_at:
                raise NotAnAnswer(f"its answer was not whole after {_PAGE_SECONDS_MAX:g} s")
    finally:
        response.close()
    return b"".join(parts)
