"""Several partitions in one run: each is sealed, recorded and followed by itself."""

from collections.abc import Callable, Iterator
from typing import Any

import dagster as dg
import polars as pl
import pyarrow as pa
import pytest

from headrace.handoff.versions import Handoff
from headrace_dagster.handoff_io import ATTRIBUTES, StoreResource
from tests.headrace_dagster.project import Project, failure_of

LETTERS = dg.StaticPartitionsDefinition(["a", "b", "c"])
WHOLE = ("a", "c")
SINGLE_RUN = dg.BackfillPolicy.single_run()


@dg.asset(partitions_def=LETTERS, backfill_policy=SINGLE_RUN, code_version="1")
def letters(context: dg.AssetExecutionContext) -> dict[str, pa.Table]:
    """`changed` is the partition that has other rows this time."""
    changed = context.run.tags.get("changed")
    return {key: pa.table({"letter": [key], "changed": [key == changed]}) for key in context.partition_keys}


def pairs(*keys: str) -> Iterator[tuple[str, pa.Table]]:
    return ((key, pa.table({"letter": [key]})) for key in keys)


def test_each_partition_is_sealed_with_its_own_rows_version_and_metadata(project: Project) -> None:
    made = {each.partition: each for each in project.make_all(letters, partitions=WHOLE)}
    assert list(made) == ["a", "b", "c"]
    for key, each in made.items():
        handoff = project.handoffs.open("letters", key or "")
        assert handoff.table()["letter"].to_pylist() == [key]
        assert each.data_version == each.metadata["content_digest"] == handoff.content_digest
        assert each.metadata["uri"] == handoff.uri
        assert each.metadata["num_rows"] == 1
        assert each.tags["dagster/code_version"] == "1"
    assert len({each.data_version for each in made.values()}) == 3


def test_one_changed_partition_asks_for_its_own_follower_alone(project: Project) -> None:
    condition = dg.AutomationCondition.any_deps_match(dg.AutomationCondition.data_version_changed())

    @dg.asset(partitions_def=LETTERS, deps=[letters], automation_condition=condition)
    def follower() -> None: ...

    definitions = dg.Definitions([letters, follower])
    project.make_all(letters, partitions=WHOLE)
    cursor = dg.evaluate_automation_conditions(definitions, project.instance).cursor

    project.make_all(letters, partitions=WHOLE)
    same = dg.evaluate_automation_conditions(definitions, project.instance, cursor=cursor)
    assert set(same.get_requested_partitions(follower.key)) == set()

    again = project.make_all(letters, partitions=WHOLE, tags={"changed": "b"})
    changed = dg.evaluate_automation_conditions(definitions, project.instance, cursor=same.cursor)
    assert set(changed.get_requested_partitions(follower.key)) == {"b"}
    assert [each.metadata["reused"] for each in again] == [True, False, True]


def test_every_partition_names_the_inputs_that_it_was_made_of(project: Project) -> None:
    @dg.asset(partitions_def=LETTERS, backfill_policy=SINGLE_RUN)
    def upper(letters: dict[str, pl.DataFrame]) -> dict[str, pl.DataFrame]:
        return {key: frame.select(pl.col("letter").str.to_uppercase()) for key, frame in letters.items()}

    project.make_all(letters, partitions=WHOLE)
    for each in project.make_all(upper, letters, partitions=("a", "b")):
        assert list(each.metadata["input_versions"]) == [f"letters[{each.partition}]"]
        sealed = project.handoffs.open("upper", each.partition or "")
        assert list(sealed.manifest.input_versions) == [f"letters[{each.partition}]"]


def test_a_stream_of_partitions_is_sealed_as_it_comes(project: Project) -> None:
    sealed_before: list[int] = []

    @dg.asset(partitions_def=LETTERS, backfill_policy=SINGLE_RUN)
    def streamed(context: dg.AssetExecutionContext) -> Any:
        def each() -> Iterator[tuple[str, Any]]:
            for key in context.partition_keys:
                sealed_before.append(len(project.handoffs.partitions("streamed")))
                yield key, iter(pa.table({"letter": [key] * 2}).to_batches(max_chunksize=1))

        # Dagster takes a generator that is returned bare for its own events.
        return dg.MaterializeResult(value=each())

    made = project.make_all(streamed, partitions=WHOLE)
    assert sealed_before == [0, 1, 2]
    assert [(each.partition, each.metadata["num_rows"]) for each in made] == [("a", 2), ("b", 2), ("c", 2)]


def test_a_stream_that_fails_leaves_what_it_sealed_recorded(project: Project) -> None:
    @dg.asset(partitions_def=LETTERS, backfill_policy=SINGLE_RUN)
    def failing() -> Any:
        yield_one = pairs("a")

        def each() -> Iterator[tuple[str, pa.Table]]:
            yield from yield_one
            raise RuntimeError("the source is gone")

        return dg.MaterializeResult(value=each())

    with pytest.raises(RuntimeError, match="the source is gone"):
        project.make_all(failing, partitions=WHOLE)
    (record,) = project.instance.fetch_materializations(failing.key, limit=10).records
    assert record.partition_key == "a"
    assert project.handoffs.partitions("failing") == ["a"]


def test_sealed_handoffs_are_recorded_by_partition(project: Project) -> None:
    @dg.asset(partitions_def=LETTERS, backfill_policy=SINGLE_RUN)
    def sealed(context: dg.AssetExecutionContext, store: StoreResource) -> dict[str, Handoff]:
        return {
            key: store.handoffs().publish("sealed", key, pa.table({"x": [key]}), code_version="1", run_id="r")
            for key in context.partition_keys
        }

    made = project.make_all(sealed, partitions=("a", "b"))
    assert [each.data_version for each in made] == [
        project.handoffs.open("sealed", key).content_digest for key in ("a", "b")
    ]


def test_what_the_body_states_of_all_partitions_and_of_one_is_kept(project: Project) -> None:
    @dg.asset(partitions_def=LETTERS, backfill_policy=SINGLE_RUN)
    def stating(context: dg.AssetExecutionContext) -> dg.MaterializeResult[Any]:
        context.add_asset_metadata({"note": "of b"}, partition_key="b")
        return dg.MaterializeResult(value=pairs("a", "b"), metadata={"source": "file"})

    a, b = project.make_all(stating, partitions=("a", "b"))
    assert (a.metadata["source"], b.metadata["source"]) == ("file", "file")
    assert ("note" in a.metadata, b.metadata["note"]) == (False, "of b")


def test_partitions_of_two_dimensions_are_recorded_with_both(project: Project) -> None:
    grid = dg.MultiPartitionsDefinition(
        {"day": dg.StaticPartitionsDefinition(["1", "2"]), "shard": dg.StaticPartitionsDefinition(["x"])}
    )

    @dg.asset(partitions_def=grid, backfill_policy=SINGLE_RUN)
    def cells(context: dg.AssetExecutionContext) -> Any:
        return {key: pa.table({"cell": [key]}) for key in context.partition_keys}

    made = project.make_all(cells, partitions=("1|x", "2|x"))
    assert [(each.partition, each.tags["dagster/partition/day"]) for each in made] == [("1|x", "1"), ("2|x", "2")]


def test_a_mapping_of_one_partition_is_fine(project: Project) -> None:
    (made,) = project.make_all(letters, partition_key="b")
    assert made.data_version == project.handoffs.open("letters", "b").content_digest


RETURNS: dict[str, tuple[Callable[[], Any], str]] = {
    "a mapping with one missing": (
        lambda: dict(pairs("a", "b")),
        "was asked for the partitions a, b, c and did not return c. Return exactly these.",
    ),
    "a mapping with one surplus": (
        lambda: dict(pairs("a", "b", "c", "d")),
        "was asked for the partitions a, b, c and returned d. Return exactly these.",
    ),
    "a stream that begins with a surplus one": (
        lambda: pairs("d", "a"),
        "was asked for the partitions a, b, c and returned d. Return exactly these.",
    ),
    "one table": (
        lambda: pa.table({"x": [1]}),
        "was asked for 3 partitions in one run and returned one Table. Return dict[partition key, frame] or an "
        "iterator of (partition key, frame), or launch one run a partition (BackfillPolicy.multi_run(1)).",
    ),
}


@pytest.mark.parametrize(("returned", "said"), RETURNS.values(), ids=RETURNS)
def test_other_partitions_than_asked_for_are_refused_before_any_is_sealed(
    project: Project, returned: Callable[[], Any], said: str
) -> None:
    @dg.asset(partitions_def=LETTERS, backfill_policy=SINGLE_RUN)
    def wrong() -> Any:
        return dg.MaterializeResult(value=returned())

    assert failure_of(project, wrong, partitions=WHOLE) == f"wrong {said}"
    assert project.handoffs.partitions("wrong") == []


def test_a_stream_that_ends_early_says_what_is_missing(project: Project) -> None:
    @dg.asset(partitions_def=LETTERS, backfill_policy=SINGLE_RUN)
    def short() -> Any:
        return dg.MaterializeResult(value=pairs("a", "b"))

    assert "and did not return c. Return exactly these." in failure_of(project, short, partitions=WHOLE)


def test_a_partition_that_comes_twice_is_refused(project: Project) -> None:
    @dg.asset(partitions_def=LETTERS, backfill_policy=SINGLE_RUN)
    def twice() -> Any:
        return dg.MaterializeResult(value=pairs("a", "a", "b", "c"))

    assert "returned the partition a twice. Return each one once." in failure_of(project, twice, partitions=WHOLE)


def test_a_run_of_one_partition_keeps_its_stated_figures_as_attributes_and_one_of_several_keeps_none(
    project: Project,
) -> None:
    """Figures of a run of several are of all of them together."""

    @dg.asset(partitions_def=LETTERS, backfill_policy=SINGLE_RUN, metadata={ATTRIBUTES: ["num_kept", "missing"]})
    def counted(context: dg.AssetExecutionContext) -> dg.MaterializeResult[dict[str, pa.Table]]:
        rows = {key: pa.table({"letter": [key]}) for key in context.partition_keys}
        return dg.MaterializeResult(value=rows, metadata={"num_kept": 7, "other": 1})

    project.make(counted, partition_key="a")
    assert project.handoffs.open("counted", "a").attributes == {"num_kept": "7"}
    project.make_all(counted, partitions=("b", "c"))
    assert project.handoffs.open("counted", "b").attributes == {}
