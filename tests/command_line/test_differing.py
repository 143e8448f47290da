"""diff: what changed between two versions, by position or by key, in bounded memory."""

import json
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from headrace.errors import InvalidInput
from headrace.handoff.comparison import Comparison, compare
from headrace.handoff.versions import Handoff, HandoffStore
from headrace.store.local import LocalStore
from tests.command_line.builders import make_documents, publish, run


def pair(directory: Path, before: pa.Table, after: pa.Table) -> tuple[Handoff, Handoff]:
    return publish(directory, "before", "all", before), publish(directory, "after", "all", after)


def counts(found: Comparison) -> tuple[int, int, int, int]:
    return found.num_added, found.num_removed, found.num_changed, found.num_same


def test_diff_by_key_finds_rows_wherever_they_are(tmp_path: Path) -> None:
    old = make_documents(100)
    new = pa.concat_tables(
        [make_documents(49, first=51, edited=[60]), make_documents(50), make_documents(2, first=200)]
    )
    found = compare(*pair(tmp_path, old, new), key=["document_id"])
    assert counts(found) == (2, 1, 1, 98)
    assert found.changed_columns == {"text": 1}
    assert found.changed[0].key == {"document_id": "doc-00060"}
    assert found.changed[0].values == {"text": ("text 60", "text 60 edited")}
    assert [row["document_id"] for row in found.added] == ["doc-00200", "doc-00201"]
    assert [row["document_id"] for row in found.removed] == ["doc-00050"]


def test_diff_by_position_compares_the_nth_with_the_nth(tmp_path: Path) -> None:
    found = compare(*pair(tmp_path, make_documents(10), make_documents(8, edited=[3, 5])), samples=1)
    assert counts(found) == (0, 2, 2, 6)
    assert [row.key for row in found.changed] == [{"row": 3}]
    assert [row["document_id"] for row in found.removed] == ["doc-00008"]


def test_the_same_content_is_settled_without_reading_a_row(tmp_path: Path) -> None:
    before, after = pair(tmp_path, make_documents(10), make_documents(10))
    for side in (before, after):
        side.objects.delete_prefix(side.manifest.parts[0].key.rpartition("/")[0])
    assert compare(before, after).is_same_content


def test_columns_that_differ_are_named_and_the_others_compared(tmp_path: Path) -> None:
    new = make_documents(5, edited=[2]).drop_columns(["score"]).append_column("label", pa.array(["x"] * 5))
    found = compare(*pair(tmp_path, make_documents(5), new), key=["document_id"])
    assert found.schema == ("score: missing, wanted double", "label: not in the schema, got string_view")
    assert counts(found) == (0, 0, 1, 4)


def test_a_key_that_two_rows_share_is_refused(tmp_path: Path) -> None:
    twice = pa.concat_tables([make_documents(5), make_documents(1, first=3, edited=[3])])
    with pytest.raises(InvalidInput, match="several rows with document_id='doc-00003'.*compare by position"):
        compare(*pair(tmp_path, make_documents(5), twice), key=["document_id"])


TYPES = {
    "lists": pa.array([[1, 2], None], pa.list_(pa.int64())),
    "vectors": pa.array([[1.0, 2.0], [3.0, 4.0]], pa.list_(pa.float32(), 2)),
    "structs": pa.array([{"a": 1, "b": ["x"]}, None]),
    "maps": pa.array([[("a", 1)], []], pa.map_(pa.string(), pa.int64())),
    "bytes": pa.array([b"a", None]),
    "decimals": pa.array([Decimal("1.20"), Decimal("3.40")]),
    "durations": pa.array([timedelta(1), timedelta(2)]),
    "nothing": pa.nulls(2),
}


@pytest.mark.parametrize("kind", TYPES)
def test_every_type_of_column_can_be_compared(kind: str, tmp_path: Path) -> None:
    old = pa.table({"id": ["a", "b"], "value": TYPES[kind], "x": [1, 1]})
    new = pa.table({"id": ["a", "b"], "value": pa.array(TYPES[kind].to_pylist()[::-1], TYPES[kind].type), "x": [1, 2]})
    found = compare(*pair(tmp_path, old, new), key=["id"])
    assert found.changed_columns == ({"x": 1} if kind == "nothing" else {"value": 2, "x": 1})


def test_categories_are_compared_by_their_texts(tmp_path: Path) -> None:
    old = pa.table({"id": [1, 2, 3], "label": pa.array(["a", "b", "a"]).dictionary_encode()})
    other = pa.DictionaryArray.from_arrays(pa.array([1, 0, 0], pa.int32()), pa.array(["b", "a"]))
    found = compare(*pair(tmp_path, old, pa.table({"id": [1, 2, 3], "label": other})), key=["id"])
    assert found.changed_columns == {"label": 1}


ROWS = st.dictionaries(st.integers(0, 20) | st.none(), st.sampled_from(["x", "y", None]), max_size=15)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(old=ROWS, new=ROWS, memory_bytes=st.sampled_from([200, 1500, 10**6]), window_bytes=st.sampled_from([64, 10**6]))
def test_counts_are_those_of_dictionaries_whatever_the_memory(
    old: dict[int | None, Any], new: dict[int | None, Any], memory_bytes: int, window_bytes: int, tmp_path: Path
) -> None:
    def table(rows: dict[int | None, Any]) -> pa.Table:
        return pa.table({"id": pa.array(rows.keys(), pa.int64()), "value": pa.array(rows.values(), pa.string())})

    before, after = pair(tmp_path, table(old), table(new))
    found = compare(before, after, key=["id"], samples=99, memory_bytes=memory_bytes, window_bytes=window_bytes)
    if found.is_same_content:
        assert old == new
        return
    assert {row["id"] for row in found.added} == new.keys() - old.keys()
    assert {row["id"] for row in found.removed} == old.keys() - new.keys()
    assert {row.key["id"] for row in found.changed} == {key for key in old.keys() & new.keys() if old[key] != new[key]}
    assert counts(found)[:3] == (len(found.added), len(found.removed), len(found.changed))
    in_step = compare(before, after, samples=99, window_bytes=window_bytes)
    assert in_step.num_same + in_step.num_changed == min(len(old), len(new))


def test_diff_says_so_by_its_exit_code(store: Path) -> None:
    same = run("handoff", "diff", "raw_documents[shard-00]@v2", "raw_documents[shard-00]@v2", store=store)
    assert (same.exit_code, "same content: 101 rows" in same.stdout) == (0, True)
    differs = run("handoff", "diff", "raw_documents", "shard-00", "v1", "v3", "--key", "document_id", store=store)
    assert differs.exit_code == 1
    assert "added    2" in differs.stdout
    assert "changed  2 (text: 2)" in differs.stdout
    assert "+ text 0 edited" in differs.stdout


def test_diff_as_json_counts_and_shows(store: Path) -> None:
    result = run("handoff", "diff", "raw_documents[shard-00]", "v1", "v3", "--json", store=store)
    body = json.loads(result.stdout)
    assert (body["before"], body["num_changed"], body["num_added"]) == ("raw_documents[shard-00] v1", 2, 2)
    assert body["changed"][0] == {"key": {"row": 0}, "values": {"text": {"before": "text 0", "after": "text 0 edited"}}}


def test_a_long_texts_difference_is_in_sight(tmp_path: Path) -> None:
    handoffs = HandoffStore(LocalStore(tmp_path))
    for end in ("before", "after"):
        publish(handoffs, "texts", "all", pa.table({"text": ["same " * 100 + end]}))
    shown = run("handoff", "diff", "texts", "all", "v1", "v2", store=tmp_path).stdout
    assert "same before" in shown
    assert "same after" in shown
