"""A run that was launched again returns what is sealed, where code, inputs and settings are the same."""

from typing import Any

import dagster as dg
import pyarrow as pa
import pytest

from headrace_dagster.handoff_io import StoreResource
from headrace_dagster.handoff_lineage import MAKE_AGAIN_TAG, sealed_already
from tests.headrace_dagster.project import Made, Project, failure_of


class Bench:
    """`source` and `total`, which counts how often it worked."""

    def __init__(self, project: Project) -> None:
        self.project = project
        self.num_worked = 0

    def run(
        self, *, rows: int = 3, code_version: str | None = "1", limit: str = "none", tags: dict[str, str] | None = None
    ) -> Made:
        @dg.asset
        def source() -> pa.Table:
            return pa.table({"x": list(range(rows))})

        @dg.asset(code_version=code_version)
        def total(
            context: dg.AssetExecutionContext, store: StoreResource, source: pa.Table
        ) -> dg.MaterializeResult[Any]:
            if sealed := sealed_already(context, store.handoffs(), limit=limit):
                return dg.MaterializeResult(value=sealed)
            self.num_worked += 1
            value = pa.table({"total": [sum(source["x"].to_pylist())]})
            return dg.MaterializeResult(
                value=value, metadata={"num_rows_in": source.num_rows, "note": dg.MetadataValue.md("*all*")}
            )

        self.project.make(source)
        return self.project.make(total, source, tags=tags)


@pytest.fixture
def bench(project: Project) -> Bench:
    return Bench(project)


def test_the_same_code_inputs_and_settings_return_what_is_sealed(bench: Bench) -> None:
    first, again = bench.run(), bench.run()
    assert bench.num_worked == 1
    assert (first.metadata["reused"], again.metadata["reused"]) == (False, True)
    assert again.data_version == first.data_version
    assert bench.project.handoffs.versions("total", "all") == [1]


def test_what_its_first_run_stated_is_shown_again(bench: Bench) -> None:
    bench.run()
    again = bench.run()
    assert (again.metadata["num_rows_in"], again.metadata["note"]) == (3, "*all*")
    assert again.metadata["input_versions"].keys() == {"source[all]"}


@pytest.mark.parametrize(
    "change", [{"rows": 4}, {"code_version": "2"}, {"limit": "5"}, {"tags": {MAKE_AGAIN_TAG: "true"}}], ids=str
)
def test_a_change_or_a_demand_makes_it_again(bench: Bench, change: dict[str, Any]) -> None:
    bench.run()
    bench.run(**change)
    assert bench.num_worked == 2
    bench.run(**{name: value for name, value in change.items() if name != "tags"})
    assert bench.num_worked == 2


def test_inputs_that_are_back_are_made_again_since_readers_open_the_newest(bench: Bench) -> None:
    bench.run(rows=3)
    bench.run(rows=4)
    back = bench.run(rows=3)
    assert bench.num_worked == 3
    newest = bench.project.handoffs.open("total", "all")
    assert newest.version == back.metadata["version"] == 3
    assert newest.table()["total"].to_pylist() == [3]


def test_a_damaged_version_is_made_again(bench: Bench) -> None:
    bench.run()
    path = bench.project.handoffs.open("total", "all").paths[0]
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[::-1])
    bench.run()
    assert bench.num_worked == 2
    bench.project.handoffs.open("total", "all").verify()


def test_an_asset_without_a_code_version_cannot_tell(project: Project) -> None:
    @dg.asset
    def total(context: dg.AssetExecutionContext, store: StoreResource) -> None:
        sealed_already(context, store.handoffs())

    assert failure_of(project, total) == "total looks for its sealed version and has no code_version. Give it one."


def test_a_run_of_several_partitions_makes_all(project: Project) -> None:
    letters = dg.StaticPartitionsDefinition(["a", "b"])
    found: list[object] = []

    @dg.asset(partitions_def=letters, code_version="1", backfill_policy=dg.BackfillPolicy.single_run())
    def ranged(context: dg.AssetExecutionContext, store: StoreResource) -> dict[str, pa.Table]:
        found.append(sealed_already(context, store.handoffs()))
        return {key: pa.table({"x": [key]}) for key in context.partition_keys}

    for _ in range(2):
        project.make_all(ranged, partitions=("a", "b"))
    assert found == [None, None]
