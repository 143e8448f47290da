import polars as pl
import pyarrow as pa
import pytest

from headrace.errors import InvalidInput
from headrace.handoff.schemas import LABELS, SCHEMAS, check_schema, conform, fingerprint, training_examples_schema


def make_labels(**changes: pa.Array) -> pa.Table:
    columns = {name: pa.array(["a", "b"]) for name in LABELS.names}
    return pa.table({**columns, **changes})


def test_every_string_that_crosses_a_stage_is_a_plain_string() -> None:
    kinds = {str(field.type) for schema in SCHEMAS.values() for field in schema}
    # Or one of a few names that all rows share.
    shared = "dictionary<values=string, indices=int32, ordered=0>"
    assert {kind for kind in kinds if "string" in kind} == {"string", "list<item: string>", shared}


def test_a_table_that_fits_passes_whether_or_not_its_fields_are_marked_nullable() -> None:
    check_schema("labels", make_labels())
    check_schema("labels", make_labels().cast(LABELS))


@pytest.mark.parametrize(
    ("table", "difference"),
    [
        (make_labels().drop_columns(["source"]), "source: missing, wanted string"),
        (make_labels(note=pa.array(["", ""])), "note: not in the schema, got string"),
        (make_labels(label=pa.array([1, 2])), "label: got int64, wanted string"),
        (make_labels().select(LABELS.names[::-1]), "order: got judged_at_version, source, label, document_id, wanted "),
        (make_labels(label=pa.array(["a", None])), "label: 1 of 2 rows are null, none may be"),
    ],
    ids=["missing", "surplus", "type", "order", "null"],
)
def test_a_table_that_does_not_fit_is_told_each_difference(table: pa.Table, difference: str) -> None:
    with pytest.raises(InvalidInput, match="Table for labels does not fit its schema") as refusal:
        check_schema("labels", table)
    assert difference in str(refusal.value)


def test_several_differences_are_several_lines() -> None:
    with pytest.raises(InvalidInput) as refusal:
        check_schema("labels", pa.table({"label": [1], "x": [2]}))
    assert len(str(refusal.value).splitlines()) == 1 + 5 + 1


def empty_rows(name: str, **further: pa.DataType) -> pa.Table:
    fields = [pa.field(column, kind) for column, kind in further.items()]
    return pa.schema([*SCHEMAS[name], *fields]).empty_table()


ROWS = ("prompts", "generated_content", "mirrored_content", "reviewed_content")


@pytest.mark.parametrize("name", ROWS)
def test_columns_of_a_prompt_file_may_follow_those_of_a_row(name: str) -> None:
    check_schema(name, empty_rows(name, sku=pa.string_view(), price=pa.float64(), day=pa.date32(), new=pa.bool_()))
    for kind in (pa.int32(), pa.list_(pa.string()), pa.binary()):
        with pytest.raises(InvalidInput, match="sku: not in the schema"):
            check_schema(name, empty_rows(name, sku=kind))
    behind = [name for name in empty_rows(name, sku=pa.string()).column_names if name != "position"]
    with pytest.raises(InvalidInput, match="order: got "):
        check_schema(name, empty_rows(name, sku=pa.string()).select([*behind, "position"]))


def test_a_variation_has_its_place_before_what_a_row_carries() -> None:
    for name, variation in zip(ROWS, ("num_variations", "variation", "variation", "variation"), strict=True):
        check_schema(name, empty_rows(name, **{variation: pa.int32(), "sku": pa.string()}))
        with pytest.raises(InvalidInput, match="order: got "):
            check_schema(name, empty_rows(name, **{"sku": pa.string(), variation: pa.int32()}))
    check_schema("mirror_comparison", empty_rows("mirror_comparison", variation=pa.int32()))


@pytest.mark.parametrize("name", sorted({*SCHEMAS} - {*ROWS}))
def test_no_other_table_carries_anything(name: str) -> None:
    with pytest.raises(InvalidInput, match="sku: not in the schema"):
        check_schema(name, empty_rows(name, sku=pa.string()))


def test_an_unknown_schema_is_refused_with_the_known_ones() -> None:
    with pytest.raises(InvalidInput, match=r"No schema is named 'lables'\. Known: raw_documents, "):
        check_schema("lables", make_labels())


def test_a_polars_frame_is_conformed_to_the_schema() -> None:
    frame = pl.DataFrame({name: ["a", "b"] for name in reversed(LABELS.names)})
    assert conform("labels", frame.to_arrow()).schema.equals(LABELS)


def test_what_cannot_be_cast_is_refused() -> None:
    words = make_labels(label=pa.array([["a"], ["b"]]))
    with pytest.raises(InvalidInput, match="cannot be cast to its schema: label: got list<item: string>, wanted "):
        conform("labels", words)
    with pytest.raises(InvalidInput, match="note: not in the schema"):
        conform("labels", make_labels(note=pa.array(["", ""])))


def test_training_examples_are_checked_at_their_own_length() -> None:
    for sequence_length in (4, 256):
        check_schema("training_examples", training_examples_schema(sequence_length).empty_table())
    wrong = training_examples_schema(4).set(2, pa.field("labels", pa.list_(pa.int32(), 8)))
    with pytest.raises(InvalidInput, match=r"labels: got fixed_size_list<item: int32>\[8\], wanted .*\[4\]"):
        check_schema("training_examples", wrong.empty_table())
    with pytest.raises(InvalidInput, match="input_ids: missing"):
        check_schema("training_examples", make_labels())


def test_a_fingerprint_is_of_names_order_types_and_nullability_alone() -> None:
    assert fingerprint(LABELS) == fingerprint(LABELS.with_metadata({"pandas": "x"}))
    spelled = LABELS.set(0, pa.field("document_id", pa.string_view(), nullable=False))
    assert fingerprint(LABELS) == fingerprint(spelled)
    others = [
        LABELS.remove(0),
        pa.schema(list(LABELS)[::-1]),
        LABELS.set(0, pa.field("document_id", pa.large_binary(), nullable=False)),
        LABELS.set(0, pa.field("document_id", pa.string())),
    ]
    assert len({fingerprint(schema) for schema in [LABELS, *others]}) == 5
