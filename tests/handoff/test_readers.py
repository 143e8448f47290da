"""The promise "every reader looks at the same pages", shown by where the bytes lie."""

import pickle
import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import datasets
import duckdb
import numpy as np
import polars as pl
import pyarrow as pa
import pytest
import torch

from headrace.errors import InvalidInput
from headrace.handoff.hf_datasets import dataset
from headrace.handoff.relations import relation
from headrace.handoff.tensors import list_tensors, tensor, tensors
from headrace.handoff.versions import Handoff, HandoffStore

NUM_ROWS = 4000
TEXTS = [f"text of row {n}, no part of a view" for n in range(NUM_ROWS)]
LISTS = [list(range(n % 4)) for n in range(NUM_ROWS)]
CUBES = pa.array(np.arange(NUM_ROWS * 6, dtype=np.float32))
TABLE = pa.table(
    {
        "number": pa.array(range(NUM_ROWS), pa.int32()),
        "half": pa.array(np.arange(NUM_ROWS).astype(np.float16)),
        "text": TEXTS,
        "values": pa.array(LISTS, pa.large_list(pa.int64())),
        "pair": pa.FixedSizeListArray.from_arrays(pa.array(range(2 * NUM_ROWS)), 2),
        "cube": pa.FixedSizeListArray.from_arrays(pa.FixedSizeListArray.from_arrays(CUBES, 3), 2),
        "flag": [n % 2 == 0 for n in range(NUM_ROWS)],
        "maybe": [None, 1] * (NUM_ROWS // 2),
    }
)


def publish(handoffs: HandoffStore, partition: str = "all", **arguments) -> Handoff:
    return handoffs.publish("docs", partition, TABLE, code_version="1", run_id="r", **arguments)


@pytest.fixture
def handoff(handoffs: HandoffStore) -> Handoff:
    return publish(handoffs)


@pytest.fixture
def in_parts(handoffs: HandoffStore) -> Handoff:
    handoff = publish(handoffs, part_bytes=200_000)
    assert len(handoff.manifest.parts) == 4
    return handoff


def is_mapped(address: int, handoff: Handoff) -> bool:
    paths = tuple(str(path) for path in handoff.paths)
    lines = [line for line in Path("/proc/self/maps").read_text().splitlines() if line.endswith(paths)]
    spans = [line.split()[0].split("-") for line in lines]
    return any(int(start, 16) <= address < int(end, 16) for start, end in spans)


def buffers_of(array: pa.Array) -> Iterator[pa.Buffer]:
    yield from (buffer for buffer in array.buffers() if buffer is not None and buffer.size)


def test_pyarrow_reads_every_column_in_place(handoff: Handoff) -> None:
    table = handoff.table()
    for name in table.schema.names:
        assert all(is_mapped(buffer.address, handoff) for buffer in buffers_of(table[name].chunk(0))), name


def test_polars_reads_numbers_lists_and_text_in_place(handoff: Handoff) -> None:
    frame = handoff.polars()
    newest = frame.to_arrow(compat_level=pl.CompatLevel.newest())
    for name in ("number", "text", "pair", "cube", "flag", "maybe"):
        assert all(is_mapped(buffer.address, handoff) for buffer in buffers_of(newest[name].chunk(0))), name
    assert is_mapped(newest["values"].chunk(0).values.buffers()[1].address, handoff)
    assert frame["text"].to_list() == TEXTS


@pytest.mark.parametrize(
    ("column", "shape", "dtype"),
    [
        ("number", (NUM_ROWS,), torch.int32),
        ("half", (NUM_ROWS,), torch.float16),
        ("pair", (NUM_ROWS, 2), torch.int64),
        ("cube", (NUM_ROWS, 2, 3), torch.float32),
        ("values", (sum(map(len, LISTS)),), torch.int64),
    ],
)
def test_a_tensor_is_the_files_pages(handoff: Handoff, column: str, shape: tuple, dtype: torch.dtype) -> None:
    found = tensor(handoff, column)
    assert (tuple(found.shape), found.dtype) == (shape, dtype)
    assert is_mapped(found.data_ptr(), handoff)
    assert found.flatten().tolist() == list(np.asarray(flattened(TABLE[column].to_pylist())))
    copied = handoff.torch(column, copy=True)
    assert not is_mapped(copied.data_ptr(), handoff)
    assert torch.equal(copied, found)


def flattened(values: list) -> list:
    return [leaf for value in values for leaf in (flattened(value) if isinstance(value, list) else [value])]


def test_a_tensor_of_some_rows_is_the_files_pages(in_parts: Handoff) -> None:
    for column in ("number", "pair", "cube", "values"):
        found = tensor(in_parts, column, rows=range(1100, 1190))
        assert is_mapped(found.data_ptr(), in_parts)
        assert found.flatten().tolist() == flattened(TABLE[column].slice(1100, 90).to_pylist())


def test_lists_come_as_values_and_offsets(in_parts: Handoff) -> None:
    rows = range(1105, 1190)
    values, offsets = list_tensors(in_parts, "values", rows=rows)
    assert is_mapped(values.data_ptr(), in_parts)
    assert is_mapped(offsets.data_ptr(), in_parts)
    found = [values[start:stop].tolist() for start, stop in pairwise(offsets)]
    assert found == LISTS[rows.start : rows.stop]
    values, offsets = list_tensors(in_parts, "values", copy=True)
    assert [values[start:stop].tolist() for start, stop in pairwise(offsets)] == LISTS


def test_a_column_in_several_parts_is_no_tensor_without_a_copy(in_parts: Handoff) -> None:
    with pytest.raises(InvalidInput, match=r"lies in 4 parts.*copy=True.*rows=range\(0, 1000\).*batch_bytes"):
        tensor(in_parts, "number")
    assert tensor(in_parts, "number", copy=True).tolist() == list(range(NUM_ROWS))
    pieces = list(tensors(in_parts, "pair"))
    assert [len(piece) for piece in pieces] == [1000] * 4
    assert all(is_mapped(piece.data_ptr(), in_parts) for piece in pieces)


@pytest.mark.parametrize(
    ("column", "message"),
    [
        ("text", "has type string_view, which torch has no layout for: encode it as numbers"),
        ("maybe", "has 2000 nulls, which tensors cannot hold: fill them first"),
        ("flag", "holds bools, which Arrow packs into bits: copy=True"),
        ("absent", "has no column 'absent'"),
    ],
)
def test_what_torch_cannot_take_says_what_to_do(handoff: Handoff, column: str, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        tensor(handoff, column)


def test_bools_become_a_tensor_by_copying(handoff: Handoff) -> None:
    assert tensor(handoff, "flag", copy=True).tolist() == TABLE["flag"].to_pylist()


def test_bfloat16_goes_as_its_bits(handoffs: HandoffStore) -> None:
    weights = torch.arange(100).to(torch.bfloat16)
    table = pa.table({"weights": weights.view(torch.uint16).numpy()})
    handoff = handoffs.publish("weights", "all", table, code_version="1", run_id="r")
    found = tensor(handoff, "weights").view(torch.bfloat16)
    assert is_mapped(found.data_ptr(), handoff)
    assert torch.equal(found, weights)


def test_a_fixed_shape_tensor_keeps_its_shape(handoffs: HandoffStore) -> None:
    images = np.arange(5 * 2 * 3, dtype=np.float32).reshape(5, 2, 3)
    table = pa.table({"image": pa.FixedShapeTensorArray.from_numpy_ndarray(images)})
    handoff = handoffs.publish("images", "all", table, code_version="1", run_id="r")
    assert np.array_equal(tensor(handoff, "image").numpy(), images)


def test_a_version_without_rows_is_an_empty_tensor(handoffs: HandoffStore) -> None:
    handoff = handoffs.publish("docs", "none", TABLE.slice(0, 0), code_version="1", run_id="r")
    assert tuple(tensor(handoff, "cube").shape) == (0, 2, 3)
    assert len(tensor(handoff, "number")) == 0


WRITES = """
import sys
from pathlib import Path
from headrace.handoff.versions import HandoffStore
from headrace.store.local import LocalStore
handoff = HandoffStore(LocalStore(Path(sys.argv[1])), leased=False).open("docs", "all")
tensor = handoff.torch("number", copy=sys.argv[2] == "copy")
tensor[0] = 7
print(tensor[0].item())
"""


@pytest.mark.process
@pytest.mark.parametrize(("how", "status"), [("mapped", -11), ("copy", 0)])
def test_writing_into_a_tensor_that_was_not_copied_is_a_crash_not_a_change(
    handoff: Handoff, tmp_path: Path, how: str, status: int
) -> None:
    command = [sys.executable, "-W", "error", "-c", WRITES, str(tmp_path / "store"), how]
    assert subprocess.run(command, check=False, capture_output=True).returncode == status
    handoff.verify()


def test_duckdb_opens_only_the_columns_that_a_query_needs(in_parts: Handoff, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = opened_columns(monkeypatch)
    found = relation(in_parts, duckdb.connect())
    assert opened == []
    assert found.filter(f"text = '{TEXTS[7]}'").project("number").fetchall() == [(7,)]
    assert [set(names) for names in opened] == [{"number", "text"}] * 4
    opened.clear()
    assert found.project("pair").limit(2).fetchall() == [((0, 1),), ((2, 3),)]
    assert opened[0] == ["pair"]
    assert len(opened) < 4
    assert found.project("half").order("half desc").limit(1).fetchall() == [(3999.0 + 1,)]  # nearest float16


def test_duckdb_hands_predicates_on_where_no_column_is_text(in_parts: Handoff, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = opened_columns(monkeypatch)
    found = relation(in_parts, duckdb.connect(), columns=["number", "maybe", "flag"])
    assert found.filter("number >= 3997").project("maybe").fetchall() == [(1,), (None,), (1,)]
    assert [set(names) for names in opened] == [{"number", "maybe"}] * 4
    assert found.aggregate("count(*)").fetchall() == [(NUM_ROWS,)]


def opened_columns(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    opened, batch = [], Handoff._batch

    def spied(self: Handoff, rows: Any, wanted: Any) -> pa.RecordBatch:
        opened.append(wanted.schema.names)
        return batch(self, rows, wanted)

    monkeypatch.setattr(Handoff, "_batch", spied)
    return opened


def test_duckdb_joins_several_versions_on_its_default_connection(handoffs: HandoffStore) -> None:
    one, other = publish(handoffs, "one"), publish(handoffs, "other")
    left, right = relation([one, other]).set_alias("one"), one.duckdb().set_alias("other")
    joined = left.join(right, "one.number = other.number").aggregate("count(*)")
    assert joined.fetchall() == [(2 * NUM_ROWS,)]


def test_a_type_that_duckdb_does_not_have_is_named(handoffs: HandoffStore) -> None:
    table = pa.table({"n": [1], "d": pa.array([1], pa.int64()).cast(pa.decimal256(60, 0))})
    handoff = handoffs.publish("wide", "all", table, code_version="1", run_id="r")
    with pytest.raises(InvalidInput, match=r"DuckDB cannot read.*columns=\[…\].*d: decimal256"):
        relation(handoff, duckdb.connect())
    assert relation(handoff, duckdb.connect(), ["n"]).fetchall() == [(1,)]


def test_a_hugging_face_dataset_lies_in_the_files_pages(in_parts: Handoff) -> None:
    found = dataset(in_parts)
    assert found.num_rows == NUM_ROWS
    assert found.features["text"] == datasets.Value("string_view")
    for name in found.column_names:
        for chunk in found.data.table[name].chunks:
            assert all(is_mapped(buffer.address, in_parts) for buffer in buffers_of(chunk)), name
    assert found[1234]["text"] == TEXTS[1234]
    assert found.shuffle(seed=1).select(range(3)).with_format("torch")["number"][:].dtype == torch.int64  # pyright: ignore[reportAttributeAccessIssue]


def test_a_dataset_is_named_by_its_content(handoff: Handoff, handoffs: HandoffStore) -> None:
    assert dataset(handoff)._fingerprint == dataset(publish(handoffs, "again"))._fingerprint
    assert dataset(handoff)._fingerprint != dataset(handoff, ["text"])._fingerprint


def test_a_dataset_goes_to_another_process_without_its_bytes(in_parts: Handoff) -> None:
    sent = pickle.dumps(dataset(in_parts).select(range(1500, 2500)))
    assert len(sent) < 20_000
    received = pickle.loads(sent)
    assert received[:]["text"] == TEXTS[1500:2500]
    assert is_mapped(received.data.table["number"].chunk(0).buffers()[1].address, in_parts)


def test_plain_text_in_a_dataset_goes_to_parquet(handoff: Handoff, tmp_path: Path) -> None:
    found = dataset(handoff, ["text", "number"], plain=True)
    found.to_parquet(str(tmp_path / "file.parquet"))
    assert pl.read_parquet(tmp_path / "file.parquet")["text"].to_list() == TEXTS
    assert is_mapped(found.data.table["number"].chunk(0).buffers()[1].address, handoff)


@pytest.mark.process
def test_workers_of_datasets_map_the_files_themselves(tmp_path: Path) -> None:
    script = """
import sys
from pathlib import Path
import pyarrow as pa
from headrace.handoff.versions import HandoffStore
from headrace.store.local import LocalStore

def doubled(row):
    return {"twice": 2 * row["n"]}

if __name__ == "__main__":
    handoffs = HandoffStore(LocalStore(Path(sys.argv[1])))
    handoff = handoffs.publish("docs", "all", pa.table({"n": list(range(1000))}), code_version="1", run_id="r")
    print(handoff.dataset().map(doubled, num_proc=2)[999])
"""
    path = tmp_path / "workers.py"
    path.write_text(script)
    printed = subprocess.run(
        [sys.executable, str(path), str(tmp_path / "store")], check=True, capture_output=True, text=True
    )
    assert printed.stdout.strip() == "{'n': 999, 'twice': 1998}"


def test_a_dataset_joins_a_version_that_may_hold_nulls_with_an_older_one_that_may_not(handoffs: HandoffStore) -> None:
    strict = pa.schema([pa.field("number", pa.int32(), nullable=False)])
    older = handoffs.publish("docs", "a", pa.table([[1, 2]], schema=strict), code_version="1", run_id="r")
    newer = handoffs.publish(
        "docs", "b", pa.table({"number": pa.array([3, None], pa.int32())}), code_version="1", run_id="r"
    )
    assert dataset([older, newer])["number"][:] == [1, 2, 3, None]
