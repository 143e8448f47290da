import mmap
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest

from headrace.errors import InvalidInput
from headrace.handoff.batching import joined_batches
from headrace.handoff.content_digest import ContentDigest
from headrace.handoff.trimming import num_bytes_of
from headrace.handoff.versions import Handoff, HandoffStore

MIB = 1024 * 1024


def joined(table: pa.Table, batch_bytes: int = MIB, part_bytes: int = 16 * MIB) -> list[pa.RecordBatch]:
    return list(joined_batches(table.to_batches(), table.schema, batch_bytes, part_bytes))


def test_many_small_batches_become_few() -> None:
    table = pa.concat_tables(
        [pa.table({"n": [n], "text": [f"text of row {n}, no part of a view"]}) for n in range(2000)]
    )
    batches = joined(table, batch_bytes=32_000)
    assert 2 <= len(batches) < 10
    assert pa.Table.from_batches(batches).to_pylist() == table.to_pylist()


def test_a_large_batch_is_handed_on_as_it_is() -> None:
    table = pa.table({"n": range(MIB)})
    (batch,) = joined(table)
    assert batch["n"].buffers()[1].address == table["n"].chunk(0).buffers()[1].address


def test_a_batch_beyond_the_part_limit_is_cut() -> None:
    table = pa.table({"n": range(100_000), "text": [f"text of row {n}, no part of a view" for n in range(100_000)]})
    batches = joined(table, part_bytes=500_000)
    assert len(batches) > 8
    assert all(num_bytes_of(batch) <= 500_000 for batch in batches)
    assert pa.Table.from_batches(batches).equals(table)


@pytest.mark.parametrize("kind", [pa.string(), pa.string_view(), pa.list_(pa.string_view())], ids=str)
def test_each_part_carries_its_own_text_alone(handoffs: HandoffStore, kind: pa.DataType) -> None:
    texts = [f"text of row {n}, no part of a view" for n in range(20_000)]
    table = pa.table({"text": pa.array([[text] for text in texts] if pa.types.is_list(kind) else texts, kind)})
    handoff = handoffs.publish("docs", "all", table, code_version="1", run_id="r", part_bytes=200_000)
    assert 4 <= len(handoff.manifest.parts) <= 16
    assert handoff.num_bytes < 2 * sum(map(num_bytes_of, table.to_batches()))
    assert handoff.table().to_pylist() == table.to_pylist()


def test_one_row_beyond_the_part_limit_is_a_part() -> None:
    table = pa.table({"body": [b"x" * 3000, b"y" * 3000, b"z"]})
    assert [batch.num_rows for batch in joined(table, batch_bytes=100, part_bytes=1000)] == [1, 1, 1]


@pytest.mark.parametrize("kind", [pa.string_view(), pa.list_(pa.string_view()), pa.struct([("a", pa.string_view())])])
def test_a_slice_does_not_take_the_whole_text_along(handoffs: HandoffStore, kind: pa.DataType) -> None:
    texts = [f"{n} " + "long " * 100 for n in range(2000)]
    wrapped = {"string_view": lambda text: text, "list": lambda text: [text], "struct": lambda text: {"a": text}}
    wrap = next(wrapped[name] for name in wrapped if str(kind).startswith(name))
    table = pa.table({"text": pa.array(list(map(wrap, texts)), kind)}).slice(700, 3)
    handoff = handoffs.publish("docs", "all", table, code_version="1", run_id="r")
    assert handoff.num_bytes < 10_000
    assert handoff.table().to_pylist() == table.to_pylist()


def test_joined_views_do_not_keep_a_buffer_for_each_batch_they_came_from() -> None:
    pieces = [
        pa.table({"text": pa.array([f"text of row {n}, no part of a view"], pa.string_view())}) for n in range(100)
    ]
    (batch,) = joined(pa.concat_tables(pieces))
    assert len(batch["text"].buffers()) - 2 <= 16


def test_dictionaries_that_differ_from_batch_to_batch_are_unified(handoffs: HandoffStore) -> None:
    one, other = (pa.table({"kind": pa.array(words).dictionary_encode()}) for words in (["a", "b", None], ["c", "a"]))
    handoff = handoffs.publish("docs", "all", pa.concat_tables([one, other]), code_version="1", run_id="r")
    assert handoff.table()["kind"].to_pylist() == ["a", "b", None, "c", "a"]


def test_a_batch_of_other_columns_is_refused() -> None:
    with pytest.raises(InvalidInput, match="does not fit the stream's schema: m: missing, wanted int64"):
        list(joined_batches([pa.record_batch({"n": [1]})], pa.schema([("m", pa.int64())]), MIB, MIB))


def sparse_text(path: Path, row_bytes: int, num_rows: int) -> pa.Array:
    """Rows of `row_bytes` each over a file of holes, whose offsets pass 2^31; row n begins with its number."""
    with path.open("wb+") as file:
        file.truncate(row_bytes * num_rows)
        for n in range(num_rows):
            file.seek(n * row_bytes)
            file.write(b"row %06d" % n)
        pages = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
    offsets = pa.array([n * row_bytes for n in range(num_rows + 1)], pa.int64())
    return pa.Array.from_buffers(pa.large_string(), num_rows, [None, offsets.buffers()[1], pa.py_buffer(pages)])


@pytest.mark.parametrize("compat", [False, True], ids=["views", "large strings"])
def test_offsets_beyond_two_gib_are_carried_right(handoffs: HandoffStore, tmp_path: Path, compat: bool) -> None:
    texts = sparse_text(tmp_path / "texts", 65_536, 40_000)
    assert texts.buffers()[1].size // 8 * 65_536 > 2**31
    for start in (0, 32_760, 39_990):  # before, across and behind 2^31
        table = pa.table({"text": texts}).slice(start, 10)
        handoff = handoffs.publish("docs", str(start), table, code_version="1", run_id="r", compat=compat)
        assert handoff.num_bytes < 2 * MIB
        rows = handoff.table()["text"].to_pylist()
        assert [row[:10] for row in rows] == [f"row {n:06d}" for n in range(start, start + 10)]
        assert {len(row) for row in rows} == {65_536}
        digest = ContentDigest(table.schema)
        digest.update(table.to_batches()[0])
        assert handoff.content_digest == digest.hexdigest()


STREAMER = """
import resource, sys
from pathlib import Path
import pyarrow as pa
from headrace.handoff.trimming import num_bytes_of
from headrace.handoff.versions import HandoffStore
from headrace.store.local import LocalStore
row = "x" * 4000
def batches(num_batches):
    for n in range(num_batches):
        yield pa.record_batch({"n": pa.array([n] * 256), "text": pa.array([row] * 256)})
handoffs = HandoffStore(LocalStore(Path(sys.argv[1])), leased=False)
def publish(num_batches):
    schema = next(batches(1)).schema
    handoffs.publish("docs", str(num_batches), batches(num_batches), schema=schema, code_version="1", run_id="r",
                     batch_bytes=8 * 2**20)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
publish(24)
print(publish(24), publish(300), sum(part.num_bytes for part in handoffs.open("docs", "300").manifest.parts) // 2**20)
"""


@pytest.mark.process
def test_a_long_stream_takes_no_more_memory_than_a_short_one(tmp_path: Path) -> None:
    command = [sys.executable, "-c", STREAMER, str(tmp_path)]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    short_mib, long_mib, num_mib = map(int, printed.split())
    assert num_mib > 280
    assert long_mib - short_mib < 32


def test_a_stream_is_read_back_batch_by_batch(handoffs: HandoffStore) -> None:
    table = pa.table({"n": range(100_000)})
    handoff: Handoff = handoffs.publish("docs", "all", table, code_version="1", run_id="r", part_bytes=100_000)
    assert len(handoff.manifest.parts) == 8
    assert pa.Table.from_batches(handoff.batches()).equals(table)
    assert handoff.reader(["n"], rows=range(5, 50_000)).read_all().equals(table.slice(5, 49_995))
