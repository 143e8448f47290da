"""The client by which dagster-k8s manages Jobs, with its faults corrected."""

from typing import Any

from dagster._core.errors import DagsterLaunchFailedError
from dagster_k8s.client import DEFAULT_WAIT_BETWEEN_ATTEMPTS, DagsterKubernetesClient

from headrace.kube.checks import check_job
from headrace.kube.cluster import Cluster


class RunJobs(DagsterKubernetesClient):
    """Checks Jobs before it creates them, deletes them with their pods, and describes Jobs that have not started."""

    def __init__(self, stock: DagsterKubernetesClient, cluster: Cluster) -> None:
        super().__init__(
            batch_api=stock.batch_api,
            core_api=stock.core_api,
            logger=stock.logger,
            sleeper=stock.sleeper,
            timer=stock.timer,
        )
        self._cluster = cluster

    def create_namespaced_job_with_retries(
        self, body: Any, namespace: str, wait_time_between_attempts: float = DEFAULT_WAIT_BETWEEN_ATTEMPTS
    ) -> None:
        """Raises: DagsterLaunchFailedError: the Job would not run correctly."""
        manifest = self.batch_api.api_client.sanitize_for_serialization(body)
        if faults := check_job(manifest):
            name = manifest["metadata"].get("name")
            raise DagsterLaunchFailedError(f"Job {namespace}/{name} was not made. {' '.join(faults)}")
        super().create_namespaced_job_with_retries(body, namespace, wait_time_between_attempts)

    def delete_job(self, job_name: str, namespace: str) -> bool:
        """False if there is none. The stock method orphans the pods and then deletes those that it saw."""
        return self._cluster.delete_job(job_name, namespace)

    def get_job_debug_info(self, job_name: str, namespace: str) -> str:
        """The stock method crashes on a Job without a start time: a suspended or just created one."""
        try:
            return super().get_job_debug_info(job_name, namespace)
        except AttributeError:
            return f"Job {job_name} has not been started: it is suspended, or waits for its controller."
