"""The files themselves: where buffers lie, what the segments cover, and that any Arrow reader takes them."""

import io
import random
from pathlib import Path

import pyarrow as pa
import pytest
import xxhash

from headrace.errors import InvalidInput
from headrace.handoff.aligned_file import FRAME, AlignedFile
from headrace.handoff.versions import Handoff, HandoffStore

NUM_ROWS = 500
TABLE = pa.table(
    {
        "number": pa.array([None if n % 7 == 0 else n for n in range(NUM_ROWS)], pa.int64()),
        "flag": [n % 3 == 0 for n in range(NUM_ROWS)],
        "text": [f"a text of row {n} that is no part of its view" for n in range(NUM_ROWS)],
        "words": [[f"word {n}"] * (n % 4) for n in range(NUM_ROWS)],
        "kind": pa.array(["left", "right"] * (NUM_ROWS // 2)).dictionary_encode(),
        "nothing": pa.nulls(NUM_ROWS),
        "place": [{"x": float(n), "name": f"place number {n}"} for n in range(NUM_ROWS)],
    }
)


def publish(handoffs: HandoffStore, table: pa.Table = TABLE, **arguments) -> Handoff:
    return handoffs.publish("docs", "all", table, code_version="1", run_id="r", **arguments)


def buffers_of(table: pa.Table) -> list[pa.Buffer]:
    """All that have bytes; a dictionary's too."""
    found = []
    for column in table.columns:
        for chunk in column.chunks:
            found += chunk.buffers() + (chunk.dictionary.buffers() if pa.types.is_dictionary(chunk.type) else [])
    return [buffer for buffer in found if buffer is not None and buffer.size]


@pytest.mark.parametrize("compat", [False, True], ids=["views", "large strings"])
@pytest.mark.parametrize("alignment", [64, 4096])
def test_every_buffer_starts_at_the_alignment_in_memory(handoffs: HandoffStore, alignment: int, compat: bool) -> None:
    handoff = publish(handoffs, alignment=alignment, compat=compat)
    addresses = [buffer.address for buffer in buffers_of(handoff.table())]
    assert len(addresses) > 12
    assert [address for address in addresses if address % alignment] == []


@pytest.mark.parametrize("alignment", [64, 4096])
def test_segments_cover_the_file_and_state_its_digests(handoffs: HandoffStore, alignment: int) -> None:
    handoff = publish(handoffs, alignment=alignment)
    (part,), (path,) = handoff.manifest.parts, handoff.paths
    body = path.read_bytes()
    assert part.num_bytes == len(body)
    at = 0
    for segment in part.segments:
        assert segment.offset == at
        at += segment.num_bytes
        assert xxhash.xxh3_128_hexdigest(body[segment.offset : at]) == segment.xxh3_128
    assert at == len(body)


def test_each_buffer_is_booked_to_its_column(handoffs: HandoffStore) -> None:
    handoff = publish(handoffs)
    (part,), (path,) = handoff.manifest.parts, handoff.paths
    for index, name in enumerate(handoff.schema.names):
        # Zeros everywhere but in the frame and in this column.
        wanted = part.segments_of([index])
        body = bytearray(part.num_bytes)
        for segment in wanted:
            end = segment.offset + segment.num_bytes
            body[segment.offset : end] = path.read_bytes()[segment.offset : end]
        options = pa.ipc.IpcReadOptions(included_fields=[index])
        column = pa.ipc.open_file(pa.py_buffer(bytes(body)), options=options).get_batch(0).column(name)
        assert column.to_pylist() == TABLE[name].to_pylist(), name
    assert set(part.columns) == {FRAME, 0, 1, 2, 3, 4, 6} - {4} | ({4} & set(part.columns))


@pytest.mark.parametrize("compat", [False, True], ids=["views", "large strings"])
def test_pyarrow_reads_the_files_without_us(handoffs: HandoffStore, compat: bool) -> None:
    (path,) = publish(handoffs, compat=compat).paths
    with pa.OSFile(str(path)) as file:
        table = pa.ipc.open_file(file).read_all()
    assert table.to_pylist() == TABLE.to_pylist()
    table.validate(full=True)
    with path.open("rb") as file:
        file.seek(8)
        assert pa.ipc.open_stream(file).read_all().to_pylist() == TABLE.to_pylist()


def test_it_does_not_matter_in_which_pieces_arrow_writes() -> None:
    class Shredded(AlignedFile):
        def write(self, body: bytes | memoryview, /) -> int:
            view, dice = memoryview(body).cast("B"), random.Random(len(body))
            while len(view):
                size = dice.randint(1, 40)
                super().write(view[:size])
                view = view[size:]
            return len(body)

    written = []
    for kind in (AlignedFile, Shredded):
        target = io.BytesIO()
        file = kind(target, TABLE.schema)
        with pa.ipc.new_file(file, TABLE.schema) as writer:
            writer.write_table(TABLE)
        file.finish()
        written.append((target.getvalue(), file.segments, file.columns))
    assert written[0] == written[1]


def test_a_column_without_rows_still_has_its_type(handoffs: HandoffStore) -> None:
    handoff = publish(handoffs, TABLE.slice(0, 0))
    assert handoff.num_rows == 0
    assert handoff.table().num_rows == 0
    assert handoff.table().schema.names == TABLE.schema.names


def test_a_table_without_columns_is_carried(handoffs: HandoffStore) -> None:
    handoff = publish(handoffs, pa.table({}))
    assert handoff.table().num_columns == 0


@pytest.mark.parametrize("alignment", [0, 8, 100, -64])
def test_an_alignment_that_is_no_power_of_two_is_refused(handoffs: HandoffStore, alignment: int) -> None:
    with pytest.raises(InvalidInput, match=f"alignment must be a power of two, at least 64 bytes, got {alignment}"):
        publish(handoffs, alignment=alignment)


def test_files_of_another_alignment_have_the_same_content(handoffs: HandoffStore, tmp_path: Path) -> None:
    first = publish(handoffs)
    assert publish(handoffs, alignment=4096).reused
    assert publish(handoffs, compat=True).content_digest == first.content_digest
