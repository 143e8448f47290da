"""Whatever table goes in comes out of every reader that knows its types, and has one digest however it is cut."""

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from decimal import Decimal
from itertools import count
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from headrace.errors import HandoffCorrupt
from headrace.handoff.content_digest import ContentDigest
from headrace.handoff.polars_frame import widened
from headrace.handoff.spelling import plain_type
from headrace.handoff.versions import Handoff, HandoffStore
from headrace.store.local import LocalStore
from tests.handoff.arrow_tables import Celsius, tables

partitions = count()


@pytest.fixture(scope="module", autouse=True)
def celsius() -> Any:
    pa.register_extension_type(Celsius())
    yield
    pa.unregister_extension_type("headrace.tests.celsius")


@pytest.fixture(scope="module")
def shared() -> Any:
    """One store for all examples, each in a partition of its own."""
    with tempfile.TemporaryDirectory() as directory:
        yield HandoffStore(LocalStore(Path(directory)), leased=False, verification="eager")


def publish(handoffs: HandoffStore, table: pa.Table, **arguments: Any) -> Handoff:
    return handoffs.publish("docs", f"{next(partitions)}", table, code_version="1", run_id="r", **arguments)


def rows_of(table: pa.Table) -> str:
    """In words: Arrow's `equals` takes NaN for another, and 0.0 for -0.0."""
    return repr([column.to_pylist() for column in table.columns])


def decimals_of(value: Any) -> Iterator[Decimal]:
    """At any depth: what polars says of them is not taken on trust."""
    if isinstance(value, Decimal):
        yield value
    elif isinstance(value, dict):
        yield from decimals_of(list(value.items()))
    elif isinstance(value, list | tuple):
        for each in value:
            yield from decimals_of(each)


@given(
    table=tables(), compat=st.booleans(), alignment=st.sampled_from([64, 4096]), part_bytes=st.sampled_from([40, 2**30])
)
def test_every_table_comes_back(
    shared: HandoffStore, table: pa.Table, compat: bool, alignment: int, part_bytes: int
) -> None:
    handoff = publish(shared, table, compat=compat, alignment=alignment, part_bytes=part_bytes)
    found = handoff.table()
    found.validate(full=True)
    assert rows_of(found) == rows_of(table)
    assert [plain_type(field.type) for field in found.schema] == [plain_type(field.type) for field in table.schema]
    assert found.schema.equals(handoff.schema)


@given(table=tables(), data=st.data())
def test_columns_and_rows_are_those_of_the_table(shared: HandoffStore, table: pa.Table, data: st.DataObject) -> None:
    handoff = publish(shared, table, part_bytes=data.draw(st.sampled_from([40, 2**30])))
    columns = data.draw(st.lists(st.sampled_from(table.schema.names), min_size=1, unique=True))
    start, stop = sorted(data.draw(st.tuples(*[st.integers(0, table.num_rows)] * 2)))
    expected = rows_of(table.select(columns).slice(start, stop - start))
    assert rows_of(handoff.table(columns, rows=range(start, stop))) == expected


@given(table=tables())
def test_polars_reads_what_it_reads_of_the_original(shared: HandoffStore, table: pa.Table) -> None:
    if "decimal256" in str(table.schema):
        return  # Polars has 38 digits, and panics at the first value with more.
    handoff = publish(shared, table)
    try:
        expected = pl.from_arrow(widened(table))
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, pa.ArrowException, ValueError, TypeError):
        return  # a type that polars does not have
    assert isinstance(expected, pl.DataFrame)
    rows = repr(expected.to_dicts())
    found = handoff.polars()
    assert list(decimals_of(found.to_dicts())) == list(decimals_of(table.to_pylist()))
    if any(dtype.is_nested() or dtype in (pl.Null, pl.Categorical) for dtype in expected.dtypes):
        assert found.schema == expected.schema
        assert repr(found.to_dicts()) == repr(handoff.lazy().collect().to_dicts()) == rows
    else:
        assert_frame_equal(found, expected)
        assert_frame_equal(handoff.lazy().collect(), expected)


@given(table=tables(), cut=st.integers(0, 6), compat=st.booleans())
def test_the_digest_is_the_contents_alone(shared: HandoffStore, table: pa.Table, cut: int, compat: bool) -> None:
    whole = publish(shared, table)
    pieces = [table.slice(0, cut), table.slice(cut)]
    digest = ContentDigest(table.schema)
    for piece in pieces:
        for batch in piece.to_batches():
            digest.update(batch)
    assert digest.hexdigest() == whole.content_digest
    assert publish(shared, whole.table(), compat=compat).content_digest == whole.content_digest
    if table.num_rows:
        assert publish(shared, table.slice(1)).content_digest != whole.content_digest


ROWS = pa.table(
    {
        "number": pa.array([1, None, 3] * 50),
        "text": ["short", "a text longer than a view", None] * 50,
        "words": [["one"], [], ["two", "a word longer than a view"]] * 50,
        "kind": pa.array(["a", "b", "a"] * 50).dictionary_encode(),
    }
)


@pytest.fixture
def written(tmp_path: Path) -> tuple[Handoff, Path]:
    handoffs = HandoffStore(LocalStore(tmp_path), leased=False, verification="eager")
    handoff = publish(handoffs, ROWS)
    return handoff, handoff.paths[0]


def test_a_flipped_bit_is_never_read_silently(written: tuple[Handoff, Path]) -> None:
    handoff, path = written
    sealed = path.read_bytes()
    path.chmod(0o600)

    @given(bit=st.integers(0, 8 * len(sealed) - 1), columns=st.none() | st.just(["number"]))
    def flip(bit: int, columns: list[str] | None) -> None:
        body = bytearray(sealed)
        body[bit // 8] ^= 1 << bit % 8
        path.write_bytes(body)
        for read in (handoff.table, handoff.polars):
            with pytest.raises(HandoffCorrupt):
                read(columns)

    flip()


FUZZ = """
import os, pathlib, random, signal, sys
from headrace.errors import HandoffCorrupt
from headrace.handoff.versions import HandoffStore
from headrace.store.local import LocalStore
store, path = sys.argv[1:3]
handoff = HandoffStore(LocalStore(pathlib.Path(store)), leased=False, verification="off").open("docs", sys.argv[3])
sealed, dice, ends = pathlib.Path(path).read_bytes(), random.Random(7), {}
(part,) = handoff.manifest.parts
frame = [at for segment, column in zip(part.segments, part.columns) if column < 0
         for at in range(segment.offset, segment.offset + segment.num_bytes)]
for _ in range(250):
    child = os.fork()
    if not child:
        body = bytearray(sealed)
        body[dice.choice(frame)] ^= 1 << dice.randrange(8)
        pathlib.Path(path).write_bytes(body)
        try:
            handoff.table()
        except HandoffCorrupt:
            os._exit(1)
        except BaseException as error:
            print(type(error), error, file=sys.stderr)
            os._exit(2)
        os._exit(0)
    dice.random(), dice.random()
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    ends[status] = ends.get(status, 0) + 1
print(ends)
"""


@pytest.mark.process
def test_a_damaged_frame_is_corrupt_even_without_verification(written: tuple[Handoff, Path], tmp_path: Path) -> None:
    handoff, path = written
    path.chmod(0o600)
    command = [sys.executable, "-c", FUZZ, str(tmp_path), str(path), handoff.partition]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    ends = eval(done.stdout)
    assert set(ends) <= {0, 1}, (ends, done.stderr)
    assert ends.get(1, 0) > 10
