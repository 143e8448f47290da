from pathlib import Path
from typing import Any, Literal

import polars as pl
import pyarrow as pa
import pytest
from polars.testing import assert_frame_equal

from headrace.errors import InvalidInput
from headrace.handoff.lazy import lazy_frame
from headrace.handoff.versions import Handoff, HandoffStore

NUM_ROWS, PART_ROWS = 4000, 1000
FRAME = pl.DataFrame(
    {
        "number": range(NUM_ROWS),
        "text": [f"text of row {n}, no part of a view" for n in range(NUM_ROWS)],
        "words": [[f"word {n}"] * (n % 3) for n in range(NUM_ROWS)],
        "even": [n % 2 == 0 for n in range(NUM_ROWS)],
    }
)
Engine = Literal["in-memory", "streaming"]


def publish(handoffs: HandoffStore, frame: pl.DataFrame = FRAME, partition: str = "all") -> Handoff:
    pieces = frame.iter_slices(PART_ROWS)
    batches = [batch for piece in pieces for batch in piece.to_arrow(compat_level=pl.CompatLevel.newest()).to_batches()]
    return handoffs.publish(
        "docs", partition, batches, schema=batches[0].schema, code_version="1", run_id="r", batch_bytes=1
    )


@pytest.fixture
def handoff(handoffs: HandoffStore) -> Handoff:
    handoff = publish(handoffs)
    assert len(handoff.manifest.parts) == 4
    return handoff


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, set[str]]]:
    """(part, columns) as they are opened."""
    opened, batch = [], Handoff._batch

    def spied(self: Handoff, rows: Any, wanted: Any) -> pa.RecordBatch:
        opened.append((rows.part.name[5:10], set(wanted.schema.names)))
        return batch(self, rows, wanted)

    monkeypatch.setattr(Handoff, "_batch", spied)
    return opened


QUERIES = {
    "all": lambda frame: frame,
    "columns": lambda frame: frame.select("words", "number"),
    "a predicate": lambda frame: frame.filter(pl.col("number") % 700 == 3),
    "a predicate on a dropped column": lambda frame: frame.filter("even").select("text"),
    "a predicate on text": lambda frame: frame.filter(pl.col("text").str.contains("99,")).select("number"),
    "a head": lambda frame: frame.head(1500),
    "a head, then a predicate": lambda frame: frame.head(1500).filter(pl.col("number") > 1400),
    "a predicate, then a head": lambda frame: frame.filter(pl.col("number") > 1400).head(1500),
    "a slice": lambda frame: frame.slice(900, 1300).select("text"),
    "a tail": lambda frame: frame.tail(3),
    "nothing left": lambda frame: frame.filter(pl.col("number") < 0),
    "a group": lambda frame: frame.group_by("even").agg(pl.col("number").sum()).sort("even"),
    "a count": lambda frame: frame.select(pl.len()),
    "a join": lambda frame: frame.join(frame.select("number", later="text"), on="number", maintain_order="left"),
    "a predicate that python evaluates": lambda frame: frame.filter(
        pl.col("number").map_elements(lambda n: n % 500 == 1, return_dtype=pl.Boolean)
    ),
}


@pytest.mark.parametrize("engine", ["in-memory", "streaming"])
@pytest.mark.parametrize("query", QUERIES.values(), ids=QUERIES)
def test_a_query_gives_what_it_gives_in_memory(handoff: Handoff, query: Any, engine: Engine) -> None:
    assert_frame_equal(query(handoff.lazy()).collect(engine=engine), query(FRAME.lazy()).collect())


def test_nothing_is_opened_before_the_query_runs(handoff: Handoff, opened: list) -> None:
    QUERIES["a group"](handoff.lazy())
    assert opened == []


def test_only_the_querys_columns_are_opened(handoff: Handoff, opened: list) -> None:
    handoff.lazy().filter("even").select("text").collect()
    assert opened == [(f"{n:05d}", {"text", "even"}) for n in range(4)]


@pytest.mark.parametrize("engine", ["in-memory", "streaming"])
def test_a_head_opens_the_first_parts_alone(handoff: Handoff, opened: list, engine: Engine) -> None:
    assert handoff.lazy().select("number").head(1000).collect(engine=engine).height == 1000
    assert {part for part, _ in opened} <= {"00000", "00001"}


def test_a_part_that_is_not_needed_may_be_gone(handoff: Handoff, store: Any) -> None:
    handoff = handoff.with_verification("off")
    Path(store.local_path(handoff.manifest.parts[3].key)).unlink()
    assert handoff.lazy().head(2000).collect().height == 2000


def test_a_query_runs_twice(handoff: Handoff) -> None:
    query = handoff.lazy().filter(pl.col("number") > 5).select("text")
    assert_frame_equal(query.collect(), query.collect())


def test_several_versions_are_one_frame(handoffs: HandoffStore, handoff: Handoff, opened: list) -> None:
    other = publish(handoffs, FRAME.reverse(), "other")
    both = lazy_frame([handoff, other], ["number", "text"])
    assert_frame_equal(both.collect(), pl.concat([FRAME, FRAME.reverse()]).select("number", "text"))
    opened.clear()
    assert both.head(1000).select("number").collect(engine="streaming").height == 1000
    assert len(opened) < 4


def test_categories_stay_categories(handoffs: HandoffStore) -> None:
    frame = pl.DataFrame({"kind": ["a", "b", None, "a"]}, schema={"kind": pl.Categorical})
    found = publish(handoffs, frame).lazy()
    assert found.collect_schema() == frame.schema
    assert found.filter(pl.col("kind") == "a").collect()["kind"].to_list() == ["a", "a"]


def test_versions_with_other_columns_are_refused(handoffs: HandoffStore, handoff: Handoff) -> None:
    other = publish(handoffs, FRAME.with_columns(pl.col("number").cast(pl.Int8, strict=False)), "other")
    with pytest.raises(
        InvalidInput, match=r"docs\[other\] v1 does not have the columns of docs\[all\] v1: number: got int8"
    ):
        lazy_frame([handoff, other])


def test_no_version_is_refused() -> None:
    with pytest.raises(InvalidInput, match="at least one handoff"):
        lazy_frame([])
