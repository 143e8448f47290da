"""Columns that cross a stage: one Arrow schema for each edge, and the check of a table against it.

`pa.string()` here means text in any spelling: files carry `string_view`, polars returns large strings, and all three
fit. A field that is not nullable holds no null in any sealed version; `check_schema` enforces that, since Arrow does
not.
"""

import hashlib
from collections.abc import Iterator

import pyarrow as pa

from headrace.errors import InvalidInput
from headrace.handoff.call_schemas import MIRRORED_CALLS, RECORDED_CALLS
from headrace.handoff.columns import MADE, NAME, STRING, STRINGS, TOKENS, columns, nullable
from headrace.handoff.media_schemas import IMAGE_SIGNATURES, IMAGE_VERDICTS, MEDIA, MEDIA_EXECUTION, MEDIA_INDEX
from headrace.handoff.picture_examples import picture_examples_schema, picture_sizes
from headrace.handoff.spelling import plain_type

RAW_DOCUMENTS = columns(
    document_id=STRING,
    term=nullable(STRING),
    category=nullable(STRING),
    text=STRING,
    examples=STRINGS,
    source_file=STRING,
    source_line=pa.int64(),
)

CLEAN_DOCUMENTS = columns(
    document_id=STRING,
    term=nullable(STRING),
    category=nullable(STRING),
    text=STRING,
    examples=STRINGS,
    split=STRING,  # "train" | "heldout"
    label=nullable(STRING),
)

# Keys of a shard's documents, by ranges of the key; first come the documents that a rule drops, which have none.
DOCUMENT_SIGNATURES = columns(
    key=pa.uint64(),
    place=pa.int64(),  # the row of raw_documents
    rule=pa.uint16(),  # 0: none drops it; else its number in the order of rules, from 1 on
)

# A row for each row of raw_documents. A list of any length: of a shard without documents nobody knows a length, and a
# null takes no room.
DOCUMENT_EMBEDDINGS = columns(
    key=nullable(pa.binary(16)),  # xxh3_128 of the text as rules left it; null: a rule drops the document
    num_characters=pa.int64(),  # of that text
    vector=nullable(pa.list_(pa.float16())),  # of length 1; null with its key, or where the model cannot read it all
)

# Documents that share a key with another, in the order of keys.
DUPLICATE_BUCKETS = columns(
    key=pa.uint64(),
    shard=NAME,
    place=pa.int64(),  # the row of raw_documents
)

# What is decided of a document: the rule that drops it, or the side that its twins give it.
DUPLICATES = columns(
    shard=STRING,
    place=pa.int64(),  # the row of raw_documents
    rule=nullable(STRING),
    copy_of_shard=nullable(STRING),
    copy_of_document_id=nullable(STRING),
    copy_of_source_file=nullable(STRING),
    copy_of_source_line=nullable(pa.int64()),
    # Of a near copy the overlap, of a semantic one the cosine; null where what is named was not compared with it.
    similarity=nullable(pa.float64()),
    split=nullable(STRING),  # "train" | "heldout"; null: as its term says
)
# What a document of a corpus of conversations or preference pairs carries, as JSON: `messages` and perhaps `tools`, or
# `prompt`, `chosen` and `rejected`, each a list. Other corpora's documents keep their content digests.
MESSAGES = pa.field("messages", STRING, nullable=False)

QUARANTINE = columns(
    source_file=STRING,
    source_line=pa.int64(),  # 0: the whole file
    reason=STRING,
    excerpt=STRING,
)

LABELS = columns(
    document_id=STRING,
    label=STRING,
    source=STRING,
    judged_at_version=STRING,
)


# Beside training_examples: each document's ids before they are cut or packed, for the next time.
TOKENIZED_DOCUMENTS = columns(
    key=pa.binary(16),  # xxh3_128 of the texts that an example is made of
    token_ids=TOKENS,
    spans=TOKENS,  # of what carries loss: from, to, from, to …
)

# What training_examples holds of a corpus of preference pairs: each answer with its end token, and ids that together
# are those of the whole chat.
PREFERENCE_EXAMPLES = columns(
    split=STRING,
    prompt_ids=TOKENS,
    chosen_ids=TOKENS,
    rejected_ids=TOKENS,
)

# The same of reviewed rows, with the texts and the rows that they are of.
PREFERENCE_PAIRS = pa.schema(
    [
        *PREFERENCE_EXAMPLES,
        *columns(
            pair_id=STRING,
            prompt=STRING,
            term=nullable(STRING),
            messages=STRING,  # JSON: what both models were asked
            chosen=STRING,
            rejected=STRING,
            chosen_row_id=STRING,
            rejected_row_id=STRING,
            chosen_partition=STRING,  # of reviewed_content
            rejected_partition=STRING,
            rejected_by=STRINGS,
        ),
    ]
)


def training_examples_schema(sequence_length: int) -> pa.Schema:
    """Packed examples of `sequence_length` tokens T a row; a label of -100 carries no loss."""
    tokens_T = pa.list_(pa.int32(), sequence_length)  # noqa: N806 (shape letter)
    return columns(
        split=STRING,
        input_ids=tokens_T,
        labels=tokens_T,
        position_ids=tokens_T,
        num_examples=pa.int32(),
        num_completion_tokens=pa.int32(),
    )


PROMPTS = columns(
    prompt_id=STRING,
    position=pa.int64(),
    text=STRING,
    term=nullable(STRING),
)

# Which file each prompt came from. A row is the prompt of that position.
PROMPT_PLACES = columns(
    position=pa.int64(),
    file=NAME,  # below HEADRACE_HOME, or absolute
    xxh3_128=NAME,  # of the file's bytes as they were
    number=pa.int64(),  # from 1 on
    unit=NAME,  # "line" | "row"
)

# What a prompt carries of its event, and so do its rows: CloudEvents' id, source and partitionkey.
EVENT_ORIGIN = columns(event_id=STRING, event_source=STRING, event_key=STRING)

# Events of a window that hold no prompt, and why.
REFUSED_EVENTS = pa.schema([*EVENT_ORIGIN, *columns(reason=STRING)])

GENERATED_CONTENT = columns(
    row_id=STRING,
    prompt_id=STRING,
    position=pa.int64(),
    prompt=STRING,
    output=STRING,
    media=nullable(STRING),
    version_set=STRING,
    seed=pa.int64(),
    num_prompt_tokens=nullable(pa.int32()),  # null: the engine gave no valid count
    num_output_tokens=nullable(pa.int32()),
    finish_reason=STRING,  # "stop" | "length" | "error"
    error=nullable(STRING),
)

EXECUTION = columns(row_id=STRING, **MADE)

# The version from which a row was taken, instead of being made; null: it was made. Only where a row of a partition was.
TAKEN_FROM = pa.field("taken_from", pa.string(), nullable=True)

REVIEWED_CONTENT = columns(
    row_id=STRING,
    prompt_id=STRING,
    position=pa.int64(),
    prompt=STRING,
    output=STRING,
    version_set=STRING,
    num_output_tokens=nullable(pa.int32()),
    kept=pa.bool_(),
    rejected_by=STRINGS,
)

# A mirrored partition row by row: the published answer, and the mirrored version set's for the same prompt.
MIRROR_COMPARISON = columns(
    prompt_id=STRING,
    position=pa.int64(),
    published_row_id=STRING,
    mirrored_row_id=STRING,
    published_kept=pa.bool_(),
    mirrored_kept=pa.bool_(),
    published_rejected_by=STRINGS,
    mirrored_rejected_by=STRINGS,
    same_output=pa.bool_(),
    published_num_output_tokens=nullable(pa.int32()),
    mirrored_num_output_tokens=nullable(pa.int32()),
)

# How many rows a prompt gives, and which of them a row is. Only where a campaign asks for several: other tables keep
# their content digests.
NUM_VARIATIONS = pa.field("num_variations", pa.int32(), nullable=False)
VARIATION = pa.field("variation", pa.int32(), nullable=False)  # from 0

# Only where a corpus asks for it.
LANGUAGE = pa.field("language", STRING, nullable=True)

# Every published row made by a version set that was rolled back later.
ROLLED_BACK_ROWS = columns(
    campaign=STRING,
    partition=STRING,
    version=pa.int64(),  # of generated_content
    row_id=STRING,
    prompt_id=STRING,
    version_set=STRING,
    superseded=pa.bool_(),  # readers of the newest version no longer get it
)

MODEL_VERSIONS = columns(
    model_name=STRING,
    version=STRING,
    kind=STRING,  # "base" | "trained"
    weights_digest=STRING,
    weights_uri=STRING,
    heldout_loss=nullable(pa.float64()),  # nats per token, or as `measure` says
    heldout_tokens=pa.int64(),
    heldout_digest=STRING,
    recipe=STRING,
    zero_stage=pa.int32(),
    mlflow_run_id=STRING,
    registered_at=pa.float64(),  # seconds since the Unix epoch
)

EVALUATION = columns(
    model=STRING,  # "base" | "trained"
    weights_digest=STRING,
    heldout_loss=pa.float64(),  # nats per token, or as `measure` says
    heldout_tokens=pa.int64(),
    heldout_digest=STRING,
    samples=STRINGS,
)

# What a model's heldout_loss is, where it is not the held-out loss: of a picture model, its error on taught captions.
MEASURE = pa.field("measure", STRING, nullable=False)
# What else was measured then, as JSON by name: of preferences the share of pairs that are won, of a painter ranks.
FIGURES = pa.field("figures", STRING, nullable=False)

SCHEMAS: dict[str, pa.Schema] = {
    "raw_documents": RAW_DOCUMENTS,
    "clean_documents": CLEAN_DOCUMENTS,
    "quarantine": QUARANTINE,
    "document_embeddings": DOCUMENT_EMBEDDINGS,
    "document_signatures": DOCUMENT_SIGNATURES,
    "duplicate_buckets": DUPLICATE_BUCKETS,
    "duplicates": DUPLICATES,
    "labels": LABELS,
    "tokenized_documents": TOKENIZED_DOCUMENTS,
    "prompts": PROMPTS,
    "prompt_places": PROMPT_PLACES,
    "refused_events": REFUSED_EVENTS,
    "generated_content": GENERATED_CONTENT,
    "execution": EXECUTION,
    "reviewed_content": REVIEWED_CONTENT,
    "generated_images": MEDIA_INDEX,
    "generated_speech": MEDIA_INDEX,
    "clips": MEDIA_INDEX,
    "media_execution": MEDIA_EXECUTION,
    "mirrored_content": GENERATED_CONTENT,
    "mirror_execution": EXECUTION,
    "mirrored_images": MEDIA_INDEX,
    "mirrored_speech": MEDIA_INDEX,
    "mirror_media_execution": MEDIA_EXECUTION,
    "unpublished_images": MEDIA_INDEX,
    "unpublished_speech": MEDIA_INDEX,
    "unpublished_media_execution": MEDIA_EXECUTION,
    "mirror_comparison": MIRROR_COMPARISON,
    "recorded_calls": RECORDED_CALLS,
    "recorded_audio": MEDIA_INDEX,
    "mirrored_calls": MIRRORED_CALLS,
    "rolled_back_rows": ROLLED_BACK_ROWS,
    "preference_pairs": PREFERENCE_PAIRS,
    "raw_images": MEDIA_INDEX,
    "image_quarantine": QUARANTINE,
    "image_signatures": IMAGE_SIGNATURES,
    "image_verdicts": IMAGE_VERDICTS,
    "clean_images": MEDIA_INDEX,
    "model_versions": MODEL_VERSIONS,
    "evaluation": EVALUATION,
}


# Edge → the columns that may follow its fixed ones, and whether columns of the prompt file come after them.
_MAY_FOLLOW: dict[str, tuple[tuple[pa.Field, ...], bool]] = {
    "raw_documents": ((MESSAGES,), False),
    "clean_documents": ((MESSAGES, LANGUAGE), False),
    "prompts": ((NUM_VARIATIONS,), True),
    "generated_content": ((VARIATION,), True),
    "mirrored_content": ((VARIATION,), True),
    "reviewed_content": ((MEDIA, VARIATION), True),
    "mirror_comparison": ((VARIATION,), False),
    "model_versions": ((MEASURE,), False),
    "evaluation": ((MEASURE,), False),
    "execution": ((TAKEN_FROM,), False),
    "mirror_execution": ((TAKEN_FROM,), False),
}
# What else a table of prompts or rows holds: no column of a prompt file may be carried under these names.
ROW_COLUMNS = frozenset(
    name
    for edge, (fields, carries) in _MAY_FOLLOW.items()
    if carries
    for name in (*SCHEMAS[edge].names, *(field.name for field in fields))
)


def carried_type(kind: pa.DataType) -> pa.DataType | None:
    """The type under which a column of a prompt file comes along; None: it does not, such as a list."""
    plain = plain_type(kind.value_type if isinstance(kind, pa.DictionaryType) else kind)
    if pa.types.is_integer(plain):
        return pa.int64()
    if pa.types.is_floating(plain):
        return pa.float64()
    if pa.types.is_date(plain):
        return pa.date32()
    keeps = (pa.types.is_string, pa.types.is_boolean, pa.types.is_timestamp, pa.types.is_decimal)
    return plain if any(is_kept(plain) for is_kept in keeps) else None


def carried_fields(schema: pa.Schema) -> list[pa.Field]:
    """The columns of a prompt file that a table of prompts or rows carries, in their order."""
    return [
        pa.field(field.name, plain_type(field.type))
        for field in schema
        if field.name not in ROW_COLUMNS and carried_type(field.type) == plain_type(field.type)
    ]


def _followed(name: str, like: pa.Schema) -> pa.Schema:
    fields, carries = _MAY_FOLLOW[name]
    # By type, too: generated_content has a column `media` of another one, which nobody fills.
    follows = [one for one in fields if one.name in like.names and _same_type(like.field(one.name).type, one.type)]
    return pa.schema([*SCHEMAS[name], *follows, *(carried_fields(like) if carries else ())])


def schema_named(name: str, like: pa.Schema) -> pa.Schema:
    """The schema of one edge; for `training_examples`, with the sequence length of `like`, or of pairs as `like`; for
    others, with those columns of `like` that may follow.

    Raises:
        InvalidInput: no edge has this name.
    """
    if name in _MAY_FOLLOW:
        return _followed(name, like)
    if name == "training_examples" and "chosen_ids" in like.names:
        return PREFERENCE_EXAMPLES
    if name == "training_examples":
        kind = like.field("input_ids").type if "input_ids" in like.names else pa.null()
        return training_examples_schema(kind.list_size if pa.types.is_fixed_size_list(kind) else 0)
    if name == "picture_examples" and {"pixels", "caption_states"} <= {*like.names}:
        return picture_examples_schema(*picture_sizes(like))
    if name not in SCHEMAS:
        known = ", ".join([*SCHEMAS, "training_examples"])
        raise InvalidInput(f"No schema is named {name!r}. Known: {known}. Add it to headrace/handoff/schemas.py.")
    return SCHEMAS[name]


def fingerprint(schema: pa.Schema) -> str:
    """16 hex characters over names, order, types and nullability; ignores metadata and the spelling of text."""
    lines = (f"{field.name}\x1f{plain_type(field.type)}\x1f{field.nullable}" for field in schema)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def empty_table(schema: pa.Schema) -> pa.Table:
    """A table without rows. Arrow's own way imports pandas if installed, which is slower than opening a handoff."""
    return pa.Table.from_batches([], schema=schema)


def check_schema(name: str, table: pa.Table, expected: pa.Schema | None = None) -> None:
    """Checks `table` against the schema called `name` (or `expected`): names, order, types, and no null in a column
    that allows none. Ignores whether the table's own fields are marked nullable.

    Raises:
        InvalidInput: they differ; the text has one line for each difference.
    """
    wanted: pa.Schema = expected or schema_named(name, table.schema)
    differences = [*schema_differences(table.schema, wanted)]
    if not differences:
        differences = [
            f"{field.name}: {table.column(field.name).null_count} of {table.num_rows} rows are null, none may be"
            for field in wanted
            if not field.nullable and table.column(field.name).null_count
        ]
    if differences:
        lines = "\n".join(f"  {difference}" for difference in differences)
        raise InvalidInput(
            f"Table for {name} does not fit its schema:\n{lines}\n"
            "Cast the columns (conform), or change headrace/handoff/schemas.py."
        )


def conform(name: str, table: pa.Table, expected: pa.Schema | None = None) -> pa.Table:
    """`table` with exactly the schema called `name`: columns put in order, string and integer widths cast.

    Columns that are already right are not copied. This also converts the large strings that polars returns.

    Raises:
        InvalidInput: a column is missing, surplus or not castable, or holds nulls that the schema does not allow.
    """
    wanted: pa.Schema = expected or schema_named(name, table.schema)
    if sorted(table.schema.names) == sorted(wanted.names):
        table = table.select(wanted.names)
        try:
            relaxed = pa.schema([field.with_nullable(True) for field in wanted])
            table = table.cast(relaxed)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            differences = "; ".join(schema_differences(table.schema, wanted))
            raise InvalidInput(f"Table for {name} cannot be cast to its schema: {differences} ({error}).") from error
    check_schema(name, table, wanted)
    return pa.Table.from_arrays(table.columns, schema=wanted)


def schema_differences(got: pa.Schema, expected: pa.Schema) -> Iterator[str]:
    """One line for each difference in names, order and types; ignores nullability, metadata and spelling."""
    missing = [name for name in expected.names if name not in got.names]
    surplus = [name for name in got.names if name not in expected.names]
    for name in missing:
        yield f"{name}: missing, wanted {expected.field(name).type}"
    for name in surplus:
        yield f"{name}: not in the schema, got {got.field(got.names.index(name)).type}"
    if len(set(got.names)) != len(got.names):
        yield f"column names repeat: {', '.join(got.names)}"
    elif not missing and not surplus and got.names != expected.names:
        yield f"order: got {', '.join(got.names)}, wanted {', '.join(expected.names)}"
    for field in expected:
        if got.names.count(field.name) == 1 and not _same_type(got.field(field.name).type, field.type):
            yield f"{field.name}: got {got.field(field.name).type}, wanted {field.type}"


def _same_type(got: pa.DataType, expected: pa.DataType) -> bool:
    return got.equals(expected) or plain_type(got).equals(plain_type(expected))
