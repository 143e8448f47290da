"""How an IO manager sets the data version of what it stored, which `headrace_dagster.handoff_io` leans on."""

from typing import Any

import dagster as dg

DATA_VERSION_TAG = "dagster/data_version"


class SetsADataVersion(dg.IOManager):
    def handle_output(self, context: dg.OutputContext, obj: Any) -> None:
        context.step_context.set_data_version(context.asset_key, dg.DataVersion(f"digest-of-{obj}"))

    def load_input(self, context: dg.InputContext) -> Any:
        raise NotImplementedError


@dg.asset
def plain() -> str:
    return "rows"


@dg.asset(partitions_def=dg.StaticPartitionsDefinition(["a", "b"]))
def partitioned(context: dg.AssetExecutionContext) -> str:
    return context.partition_key


@dg.asset
def decides_by_itself() -> dg.MaterializeResult[str]:
    return dg.MaterializeResult(value="rows", data_version=dg.DataVersion("own"))


@dg.multi_asset(outs={"left": dg.AssetOut(), "right": dg.AssetOut()})
def both() -> tuple[str, str]:
    return "l", "r"


@dg.asset(deps=[plain])
def follower() -> None: ...


def data_versions(*assets: Any, **arguments: Any) -> dict[str, str]:
    result = dg.materialize(list(assets), resources={"io_manager": SetsADataVersion()}, **arguments)
    events = [event.materialization for event in result.get_asset_materialization_events()]
    return {event.asset_key.to_user_string(): (event.tags or {})[DATA_VERSION_TAG] for event in events}


def test_a_data_version_set_on_the_step_while_storing_is_the_one_recorded() -> None:
    assert data_versions(plain) == {"plain": "digest-of-rows"}
    assert data_versions(partitioned, partition_key="b") == {"partitioned": "digest-of-b"}


def test_each_output_of_a_multi_asset_has_its_own() -> None:
    assert data_versions(both) == {"left": "digest-of-l", "right": "digest-of-r"}


def test_an_asset_that_states_a_data_version_wins() -> None:
    assert data_versions(decides_by_itself) == {"decides_by_itself": "own"}


def test_downstream_sees_it_as_its_input_data_version() -> None:
    result = dg.materialize([plain, follower], resources={"io_manager": SetsADataVersion()})
    (event,) = result.asset_materializations_for_node("follower")
    assert (event.tags or {})["dagster/input_data_version/plain"] == "digest-of-rows"


def test_one_step_has_one_context_for_loading_and_storing() -> None:
    seen: list[Any] = []

    class Remembers(dg.IOManager):
        def handle_output(self, context: dg.OutputContext, obj: Any) -> None:
            seen.append((context.step_key, context.step_context))

        def load_input(self, context: dg.InputContext) -> Any:
            seen.append((context.step_context.step.key, context.step_context))
            return "loaded"

    @dg.asset
    def reader(plain: str) -> str:
        return plain

    dg.materialize([plain, reader], resources={"io_manager": Remembers()})
    contexts: dict[str, set[int]] = {}
    for step, context in seen:
        contexts.setdefault(step, set()).add(id(context))
    assert [len(of_step) for of_step in contexts.values()] == [1, 1]
