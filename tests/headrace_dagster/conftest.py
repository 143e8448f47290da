from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from tests.headrace_dagster.project import SHARDS, Project, docs


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield Project(tmp_path / "store", instance)


@pytest.fixture
def with_docs(project: Project) -> Project:
    """Both shards of `docs` are sealed."""
    for shard in SHARDS.get_partition_keys():
        project.make(docs, partition_key=shard)
    return project
