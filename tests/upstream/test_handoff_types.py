"""Which annotations Dagster takes for inputs, and how it hands them on, as `headrace_dagster.handoff_inputs` needs."""

from collections.abc import Iterator, Mapping
from typing import Any, get_args, get_origin

import dagster as dg
import pyarrow as pa
import pytest


def typing_type(annotation: Any) -> Any:
    seen: list[Any] = []

    class Looks(dg.IOManager):
        def handle_output(self, context: dg.OutputContext, obj: Any) -> None: ...

        def load_input(self, context: dg.InputContext) -> Any:
            seen.append(context.dagster_type.typing_type)
            return {} if "Dict" in str(seen[0]) else iter(())

    @dg.asset
    def source() -> None: ...

    def reader(source): ...

    reader.__annotations__ = {"source": annotation}
    dg.materialize([source, dg.asset(reader)], resources={"io_manager": Looks()})
    return seen[0]


@pytest.mark.parametrize("annotation", [dict[str, pa.Table], Mapping[str, pa.Table]])
def test_a_mapping_annotation_arrives_as_a_dict_with_its_types(annotation: Any) -> None:
    assert get_origin(typing_type(annotation)) is dict
    assert get_args(typing_type(annotation)) == (str, pa.Table)


def test_a_bare_iterator_is_an_annotation() -> None:
    assert typing_type(Iterator) is Iterator


def test_an_iterator_of_something_is_refused_as_annotation() -> None:
    """Why there is RecordBatches."""
    with pytest.raises(dg.DagsterInvalidDefinitionError):
        typing_type(Iterator[pa.RecordBatch])


def test_a_generator_that_is_returned_bare_is_taken_for_events() -> None:
    """Why streams are returned as `MaterializeResult(value=…)`, RecordBatches or a RecordBatchReader."""

    @dg.asset
    def stream():
        return (number for number in range(3))

    with pytest.raises(dg.DagsterInvariantViolationError, match="inadvertently returning a generator"):
        dg.materialize([stream])
