"""Micro-batch commits: one batch's rows with the record of how they were made, in one object made by `create`.

A commit is an Arrow IPC stream followed by the 16 bytes of its xxh3-128; Arrow readers ignore what follows a stream. A
commit makes its rows final, whoever made them: every later reader seals these bytes, so two workers agree even on an
engine that is not deterministic.
"""

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa
import xxhash

from headrace.engines.rows import GenerationResult
from headrace.errors import HandoffCorrupt, ObjectMissing
from headrace.generation.carried_columns import carried_rows
from headrace.generation.claim_objects import Claim
from headrace.generation.requests import Row
from headrace.handoff.schemas import EXECUTION, GENERATED_CONTENT, NUM_VARIATIONS, TAKEN_FROM, VARIATION, schema_named
from headrace.store.objects import ObjectStore

_COLUMNS = pa.schema([*GENERATED_CONTENT, *(field for field in EXECUTION if field.name != "row_id")])
_DIGEST_BYTES = 16
_NAME = re.compile(r"b(\d{5,})\.arrow")


@dataclass(frozen=True, kw_only=True)
class MadeRow:
    """One row as an engine made it. `seconds` is an even share of the batch's time; `deterministic`: made again
    on the same kind of machine, it has the same bytes."""

    row: Row
    result: GenerationResult
    seconds: float
    num_retries: int
    deterministic: bool
    # The sealed version that it comes from; None: it was made.
    taken_from: str | None = None


def commit(objects: ObjectStore, claim: Claim, index: int, made: Sequence[MadeRow], *, host: str, run_id: str) -> bool:
    """Makes a batch's rows final. False: another commit of this batch exists, and stays."""
    columns = {
        "row_id": [one.row.row_id for one in made],
        "prompt_id": [one.row.prompt_id for one in made],
        "position": [one.row.position for one in made],
        "prompt": [one.row.prompt for one in made],
        "output": [one.result.text for one in made],
        "media": [None] * len(made),
        "version_set": [claim.version_set] * len(made),
        "seed": [one.row.seed for one in made],
        "num_prompt_tokens": [one.result.num_prompt_tokens for one in made],
        "num_output_tokens": [one.result.num_output_tokens for one in made],
        "finish_reason": [one.result.finish_reason for one in made],
        "error": [one.result.error for one in made],
        "micro_batch": [index] * len(made),
        "seconds": [one.seconds for one in made],
        "attempt": [claim.attempt] * len(made),
        "retries": [one.num_retries for one in made],
        "host": [host] * len(made),
        "run_id": [run_id] * len(made),
        "deterministic": [one.deterministic for one in made],
    }
    schema = _COLUMNS
    if any(one.taken_from for one in made):
        schema = schema.append(TAKEN_FROM)
        columns[TAKEN_FROM.name] = [one.taken_from for one in made]
    return commit_table(objects, claim.batch_key(index), pa.table(columns, schema=schema))


def commit_table(objects: ObjectStore, key: str, table: pa.Table) -> bool:
    """Makes a batch's table final. False: another commit of this batch exists, and stays."""
    body = io.BytesIO()
    with pa.ipc.new_stream(body, table.schema) as writer:
        writer.write_table(table)
    raw = body.getvalue()
    return objects.create(key, raw + xxhash.xxh3_128_digest(raw))


def committed(objects: ObjectStore, claim: Claim, role: str = "") -> set[int]:
    """Numbers of the final batches of a role that paints or speaks, or of the texts."""
    names = objects.children(claim.batches_of(role))
    return {int(match[1]) for match in map(_NAME.fullmatch, names) if match}


def read_commit(objects: ObjectStore, claim: Claim, index: int, planned: Sequence[Row]) -> pa.Table:
    """A batch's rows, with the columns of content and execution.

    Raises:
        HandoffCorrupt: the object is missing, changed, or holds other rows than `planned`.
    """
    key = claim.batch_key(index)
    # An earlier release's batches did not allow unknown counts.
    return planned_rows(objects, claim, key, committed_body(objects, claim, key), planned, _COLUMNS)


def committed_body(objects: ObjectStore, claim: Claim, key: str) -> pa.Buffer:
    """A committed batch's Arrow stream. Raises: HandoffCorrupt: the object is missing or changed."""
    try:
        return _body_in(objects, claim, key)
    except ObjectMissing as error:
        raise lost_commit(objects, key) from error


def planned_rows(
    objects: ObjectStore, claim: Claim, key: str, body: pa.Buffer, planned: Sequence[Row], columns: pa.Schema
) -> pa.Table:
    """What a batch's body says of its rows, in `columns`, without a copy. Raises: as `read_commit`."""
    table = pa.ipc.open_stream(body).read_all()
    if TAKEN_FROM.name in table.column_names and TAKEN_FROM.name not in columns.names:
        columns = columns.append(TAKEN_FROM)
    table = table.cast(columns)
    if table["row_id"].to_pylist() != [row.row_id for row in planned]:
        raise HandoffCorrupt(
            f"Micro-batch {objects.uri(key)} holds other rows than its plan says: the code that plans batches changed. "
            "Set regenerate: keep_set to begin a new attempt.",
            key=key,
            partition=claim.partition,
        )
    return table


def read_figures(objects: ObjectStore, claim: Claim, index: int, columns: Sequence[str], role: str = "") -> pa.Table:
    """Some columns of a batch's rows, for who counts them and has no plan to compare them with; and from which version
    each was taken, where one was.

    Raises:
        ObjectMissing: the batch was dropped.
        HandoffCorrupt: its bytes changed.
    """
    rows = pa.ipc.open_stream(_body_in(objects, claim, claim.batch_key(index, role))).read_all()
    return rows.select([*columns, *({TAKEN_FROM.name} & set(rows.column_names) - set(columns))])


def lost_commit(objects: ObjectStore, key: str) -> HandoffCorrupt:
    return HandoffCorrupt(f"Micro-batch {objects.uri(key)} is gone, though it was committed.", key=key)


def damaged_commit(objects: ObjectStore, claim: Claim, key: str) -> HandoffCorrupt:
    return HandoffCorrupt(
        f"Micro-batch {objects.uri(key)} is damaged: its bytes do not have the digest that they end with. "
        f"Delete that file and materialize generated_content[{claim.partition}] again: its rows are made anew.",
        key=key,
        partition=claim.partition,
    )


def _body_in(objects: ObjectStore, claim: Claim, key: str) -> pa.Buffer:
    raw = pa.py_buffer(objects.read(key))
    body = raw.slice(0, max(len(raw) - _DIGEST_BYTES, 0))
    if xxhash.xxh3_128_digest(body) != raw.slice(len(body)).to_pybytes():
        raise damaged_commit(objects, claim, key)
    return body


def assemble(batches: Sequence[pa.Table], planned: Sequence[Row], prompts: pa.Table) -> tuple[pa.Table, pa.Table]:
    """All of a partition's rows as the content table and the execution table, both in order of positions.

    Variations and carried columns come from the plan and the prompts, which the claim pins, not from the commits: these
    hold only what was made.
    """
    tables = [*batches, _COLUMNS.empty_table()]
    made = pa.concat_tables(tables, promote_options="default").sort_by("position").combine_chunks()
    content = made.select(GENERATED_CONTENT.names).cast(GENERATED_CONTENT)
    if NUM_VARIATIONS.name in prompts.column_names:
        variations = {row.row_id: row.variation for row in planned}
        column = pa.array([variations[identity] for identity in content["row_id"].to_pylist()], VARIATION.type)
        content = content.append_column(VARIATION, column)
    carried = carried_rows(prompts, content["prompt_id"].to_pylist())
    for field, column in zip(carried.schema, carried.columns, strict=True):
        content = content.append_column(field, column)
    making = schema_named("execution", made.schema)
    return content, made.select(making.names).cast(making)
