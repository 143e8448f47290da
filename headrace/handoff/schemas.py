"""Columns that cross a stage: one Arrow schema for each edge, and the check of a table against it.

`pa.string()` here means text in any spelling: files carry `string_view`, polars returns large strings, and all three
fit. A field that is not nullable holds no null in any sealed version; `check_schema` enforces that, since Arrow does
not.
"""

import hashlib
from collections.abc import Iterator

import pyarrow as pa

from headrace.errors import InvalidInput
from headrace.handoff.picture_examples import picture_examples_schema, picture_sizes
from headrace.handoff.spelling import plain_type


def _schema(**columns: pa.DataType | pa.Field) -> pa.Schema:
    return pa.schema(
        [
            column.with_name(name) if isinstance(column, pa.Field) else pa.field(name, column, nullable=False)
            for name, column in columns.items()
        ]
    )


def _nullable(column: pa.DataType) -> pa.Field:
    return pa.field("", column, nullable=True)


_STRING = pa.string()
_STRINGS = pa.list_(_STRING)
_TOKENS = pa.list_(pa.int32())
# One of a few texts, which all rows share.
_NAME = pa.dictionary(pa.int32(), _STRING)

RAW_DOCUMENTS = _schema(
    document_id=_STRING,
    term=_nullable(_STRING),
    category=_nullable(_STRING),
    text=_STRING,
    examples=_STRINGS,
    source_file=_STRING,
    source_line=pa.int64(),
)

CLEAN_DOCUMENTS = _schema(
    document_id=_STRING,
    term=_nullable(_STRING),
    category=_nullable(_STRING),
    text=_STRING,
    examples=_STRINGS,
    split=_STRING,  # "train" | "heldout"
    label=_nullable(_STRING),
)

# Keys of a shard's documents, by ranges of the key; first come the documents that a rule drops, which have none.
DOCUMENT_SIGNATURES = _schema(
    key=pa.uint64(),
    place=pa.int64(),  # the row of raw_documents
    rule=pa.uint16(),  # 0: none drops it; else its number in the order of rules, from 1 on
)

# A row for each row of raw_documents. A list of any length: of a shard without documents nobody knows a length, and a
# null takes no room.
DOCUMENT_EMBEDDINGS = _schema(
    key=_nullable(pa.binary(16)),  # xxh3_128 of the text as rules left it; null: a rule drops the document
    num_characters=pa.int64(),  # of that text
    vector=_nullable(pa.list_(pa.float16())),  # of length 1; null with its key, or where the model cannot read it all
)

# Documents that share a key with another, in the order of keys.
DUPLICATE_BUCKETS = _schema(
    key=pa.uint64(),
    shard=_NAME,
    place=pa.int64(),  # the row of raw_documents
)

# What is decided of a document: the rule that drops it, or the side that its twins give it.
DUPLICATES = _schema(
    shard=_STRING,
    place=pa.int64(),  # the row of raw_documents
    rule=_nullable(_STRING),
    copy_of_shard=_nullable(_STRING),
    copy_of_document_id=_nullable(_STRING),
    copy_of_source_file=_nullable(_STRING),
    copy_of_source_line=_nullable(pa.int64()),
    # Of a near copy the overlap, of a semantic one the cosine; null where what is named was not compared with it.
    similarity=_nullable(pa.float64()),
    split=_nullable(_STRING),  # "train" | "heldout"; null: as its term says
)
# What a document of a corpus of conversations or preference pairs carries, as JSON: `messages` and perhaps `tools`, or
# `prompt`, `chosen` and `rejected`, each a list. Other corpora's documents keep their content digests.
MESSAGES = pa.field("messages", _STRING, nullable=False)

QUARANTINE = _schema(
    source_file=_STRING,
    source_line=pa.int64(),  # 0: the whole file
    reason=_STRING,
    excerpt=_STRING,
)

LABELS = _schema(
    document_id=_STRING,
    label=_STRING,
    source=_STRING,
    judged_at_version=_STRING,
)


# Beside training_examples: each document's ids before they are cut or packed, for the next time.
TOKENIZED_DOCUMENTS = _schema(
    key=pa.binary(16),  # xxh3_128 of the texts that an example is made of
    token_ids=_TOKENS,
    spans=_TOKENS,  # of what carries loss: from, to, from, to …
)

# What training_examples holds of a corpus of preference pairs: each answer with its end token, and ids that together
# are those of the whole chat.
PREFERENCE_EXAMPLES = _schema(
    split=_STRING,
    prompt_ids=_TOKENS,
    chosen_ids=_TOKENS,
    rejected_ids=_TOKENS,
)


def training_examples_schema(sequence_length: int) -> pa.Schema:
    """Packed examples of `sequence_length` tokens T a row; a label of -100 carries no loss."""
    tokens_T = pa.list_(pa.int32(), sequence_length)  # noqa: N806 (shape letter)
    return _schema(
        split=_STRING,
        input_ids=tokens_T,
        labels=tokens_T,
        position_ids=tokens_T,
        num_examples=pa.int32(),
        num_completion_tokens=pa.int32(),
    )


PROMPTS = _schema(
    prompt_id=_STRING,
    position=pa.int64(),
    text=_STRING,
    term=_nullable(_STRING),
)

# Which file each prompt came from. A row is the prompt of that position.
PROMPT_PLACES = _schema(
    position=pa.int64(),
    file=_NAME,  # below HEADRACE_HOME, or absolute
    xxh3_128=_NAME,  # of the file's bytes as they were
    number=pa.int64(),  # from 1 on
    unit=_NAME,  # "line" | "row"
)

GENERATED_CONTENT = _schema(
    row_id=_STRING,
    prompt_id=_STRING,
    position=pa.int64(),
    prompt=_STRING,
    output=_STRING,
    media=_nullable(_STRING),
    version_set=_STRING,
    seed=pa.int64(),
    num_prompt_tokens=_nullable(pa.int32()),  # null: the engine gave no valid count
    num_output_tokens=_nullable(pa.int32()),
    finish_reason=_STRING,  # "stop" | "length" | "error"
    error=_nullable(_STRING),
)

# How a row, or a part of one, was made.
_MADE: dict[str, pa.DataType] = {
    "micro_batch": pa.int32(),
    "seconds": pa.float64(),
    "attempt": pa.int32(),
    "retries": pa.int32(),
    "host": _STRING,
    "run_id": _STRING,
    "deterministic": pa.bool_(),
}
EXECUTION = _schema(row_id=_STRING, **_MADE)

# The version from which a row was taken, instead of being made; null: it was made. Only where a row of a partition was.
TAKEN_FROM = pa.field("taken_from", pa.string(), nullable=True)

# How each picture or recording was made, or why there is none; a row for each row of content and role.
MEDIA_EXECUTION = _schema(
    row_id=_STRING,
    role=_STRING,
    asked=_STRING,  # what its template gave
    seed=pa.int64(),
    finish_reason=_STRING,  # "stop" | "error" | "refused" | "skipped"
    error=_nullable(_STRING),
    **_MADE,
    taken_from=_nullable(_STRING),  # the version that has the same of another version set; null: it was made
)

REVIEWED_CONTENT = _schema(
    row_id=_STRING,
    prompt_id=_STRING,
    position=pa.int64(),
    prompt=_STRING,
    output=_STRING,
    version_set=_STRING,
    num_output_tokens=_nullable(pa.int32()),
    kept=pa.bool_(),
    rejected_by=_STRINGS,
)

# A mirrored partition row by row: the published answer, and the mirrored version set's for the same prompt.
MIRROR_COMPARISON = _schema(
    prompt_id=_STRING,
    position=pa.int64(),
    published_row_id=_STRING,
    mirrored_row_id=_STRING,
    published_kept=pa.bool_(),
    mirrored_kept=pa.bool_(),
    published_rejected_by=_STRINGS,
    mirrored_rejected_by=_STRINGS,
    same_output=pa.bool_(),
    published_num_output_tokens=_nullable(pa.int32()),
    mirrored_num_output_tokens=_nullable(pa.int32()),
)

# How many rows a prompt gives, and which of them a row is. Only where a campaign asks for several: other tables keep
# their content digests.
NUM_VARIATIONS = pa.field("num_variations", pa.int32(), nullable=False)
VARIATION = pa.field("variation", pa.int32(), nullable=False)  # from 0

# Pictures and recordings of a row, in the order of the chain; only where a campaign has any. Their bytes are the items
# `item_id` of generated_images and generated_speech.
MEDIA = pa.field(
    "media",
    pa.list_(
        pa.struct(
            [
                ("role", _STRING),
                ("item_id", _STRING),
                ("media_type", _STRING),
                ("num_bytes", pa.int64()),
                ("xxh3_128", pa.binary(16)),
                ("width", pa.int32()),
                ("height", pa.int32()),
                ("duration_seconds", pa.float64()),
                ("figures", _STRING),  # a JSON object: what its review measured, by name
            ]
        )
    ),
    nullable=False,
)

# Only where a corpus asks for it.
LANGUAGE = pa.field("language", _STRING, nullable=True)

# Every published row made by a version set that was rolled back later.
ROLLED_BACK_ROWS = _schema(
    campaign=_STRING,
    partition=_STRING,
    version=pa.int64(),  # of generated_content
    row_id=_STRING,
    prompt_id=_STRING,
    version_set=_STRING,
    superseded=pa.bool_(),  # readers of the newest version no longer get it
)

MODEL_VERSIONS = _schema(
    model_name=_STRING,
    version=_STRING,
    kind=_STRING,  # "base" | "trained"
    weights_digest=_STRING,
    weights_uri=_STRING,
    heldout_loss=_nullable(pa.float64()),  # nats per token, or as `measure` says
    heldout_tokens=pa.int64(),
    heldout_digest=_STRING,
    recipe=_STRING,
    zero_stage=pa.int32(),
    mlflow_run_id=_STRING,
    registered_at=pa.float64(),  # seconds since the Unix epoch
)

EVALUATION = _schema(
    model=_STRING,  # "base" | "trained"
    weights_digest=_STRING,
    heldout_loss=pa.float64(),  # nats per token, or as `measure` says
    heldout_tokens=pa.int64(),
    heldout_digest=_STRING,
    samples=_STRINGS,
)

# What a model's heldout_loss is, where it is not the held-out loss: of a picture model, its error on taught captions.
MEASURE = pa.field("measure", _STRING, nullable=False)

MEDIA_INDEX = _schema(
    item_id=_STRING,
    id_xxh3_64=pa.uint64(),  # of item_id's UTF-8: look-ups use it
    media_type=_STRING,  # "image/png", "audio/wav", …
    num_bytes=pa.int64(),
    xxh3_128=pa.binary(16),  # of the item's bytes
    width=_nullable(pa.int32()),  # pixels
    height=_nullable(pa.int32()),  # pixels
    duration_seconds=_nullable(pa.float64()),
    caption=_nullable(_STRING),
    row_id=_nullable(_STRING),  # the generated row that the item was made from
    version_set=_nullable(_STRING),
    attributes=_STRING,  # a JSON object
)

# What is compared and judged of one picture of a corpus; its bytes are the item `image_id` of raw_images.
IMAGE_SIGNATURES = _schema(
    image_id=_STRING,
    caption=_nullable(_STRING),
    source_file=_STRING,
    source_line=pa.int64(),  # of a table or tar; 0: the file is the picture
    member=_nullable(_STRING),  # its name in a tar or list
    width=pa.int32(),  # pixels as the file has it, upright
    height=pa.int32(),
    format=_NAME,  # "JPEG", "PNG", …
    animated=pa.bool_(),
    pixels=pa.binary(16),  # digest of what training sees, and of the size in the file
    coarse_hash=pa.uint64(),
    fine_hash=pa.binary(32),
    colours=pa.binary(27),  # mean RGB of each ninth
    contrast=pa.float64(),
)

IMAGE_VERDICTS = _schema(
    image_id=_STRING,
    shard=_NAME,
    caption=_nullable(_STRING),  # in its normal form
    split=_nullable(_STRING),  # "train" | "heldout"; null: dropped
    rule=_nullable(_STRING),  # the first rule that drops it; null: kept
    measured=_nullable(_STRING),
    limit=_nullable(_STRING),
    copy_of=_nullable(_STRING),  # of a duplicate, the id of the picture that is kept
    copy_of_shard=_nullable(_STRING),
)

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
    "rolled_back_rows": ROLLED_BACK_ROWS,
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
