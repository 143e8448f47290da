"""A `Webserver` without the web: Dagster's own GraphQL, on a real instance, in this process."""

from typing import Any

from dagster._core.workspace.context import WorkspaceProcessContext
from dagster_graphql.test.utils import execute_dagster_graphql

from headrace_dagster.project.webserver import Webserver


class Answering(Webserver):
    def __init__(self, workspace: WorkspaceProcessContext) -> None:
        super().__init__("http://nowhere", "theirs")
        self.workspace = workspace
        self.num_requests = 0

    def _query(self, query: str, variables: dict[str, Any] | None = None) -> dict[str, Any]:
        self.num_requests += 1
        answer = execute_dagster_graphql(self.workspace.create_request_context(), query, variables)
        assert not answer.errors, answer.errors
        return dict(answer.data)

    @property
    def shards(self) -> list[str]:
        return list(self.workspace.instance.get_dynamic_partitions("campaign_shard"))
