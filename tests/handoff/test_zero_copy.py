"""The promise "a handoff costs nothing to open", shown by where the bytes lie."""

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest

from headrace.handoff.schemas import training_examples_schema
from headrace.handoff.versions import Handoff, HandoffStore

SEQUENCE_LENGTH, NUM_ROWS = 64, 3000


@pytest.fixture
def handoff(handoffs: HandoffStore) -> Handoff:
    schema = training_examples_schema(SEQUENCE_LENGTH)
    tokens = pa.FixedSizeListArray.from_arrays(pa.array(range(SEQUENCE_LENGTH * NUM_ROWS), pa.int32()), SEQUENCE_LENGTH)
    counts = pa.array(range(NUM_ROWS), pa.int32())
    split = pa.array(["train"] * NUM_ROWS)
    table = pa.Table.from_arrays([split, tokens, tokens, tokens, counts, counts], schema=schema)
    return handoffs.publish("training_examples", "shard-00", table, code_version="1", run_id="r")


def mapped_ranges(path: Path) -> list[range]:
    lines = Path("/proc/self/maps").read_text().splitlines()
    spans = [line.split()[0].split("-") for line in lines if line.endswith(str(path))]
    return [range(int(start, 16), int(end, 16)) for start, end in spans]


def buffers_of(column: pa.Array) -> Iterator[pa.Buffer]:
    yield from (buffer for buffer in column.buffers() if buffer is not None and buffer.size)


def test_a_sealed_handoff_is_read_by_pyarrow_without_a_copy(handoff: Handoff) -> None:
    table = handoff.table()
    ranges = mapped_ranges(handoff.paths[0])
    addresses = [buffer.address for column in table.columns for buffer in buffers_of(column.chunk(0))]
    assert addresses
    assert all(any(address in pages for pages in ranges) for address in addresses)


def test_a_sealed_handoff_is_read_by_polars_without_a_copy(handoff: Handoff) -> None:
    frame = handoff.polars()
    ranges = mapped_ranges(handoff.paths[0])
    for name in ("num_examples", "input_ids"):
        address = frame[name].to_numpy(allow_copy=False).__array_interface__["data"][0]
        assert any(address in pages for pages in ranges), name


def test_several_partitions_concatenate_without_a_copy(handoff: Handoff) -> None:
    table = pa.concat_tables([handoff.table(), handoff.table()])
    ranges = mapped_ranges(handoff.paths[0])
    for chunk in table["num_examples"].chunks:
        assert any(chunk.buffers()[1].address in pages for pages in ranges)


def test_a_reader_keeps_its_rows_when_the_files_are_deleted(handoff: Handoff, handoffs: HandoffStore) -> None:
    table = handoff.table()
    handoffs.objects.delete_prefix("handoff/training_examples")
    assert table["num_examples"].to_pylist() == list(range(NUM_ROWS))
