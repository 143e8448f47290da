"""What `--json` prints of a campaign's way: `headrace schema KIND` describes it. Fields are added, never renamed."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from headrace.registry.model_versions import ModelVersion

Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class PreviewedRowBody:
    row_id: str
    prompt_id: str
    partition: str
    """The content partition in which a run would seal the row."""
    position: int
    prompt: str
    asked: str
    """The user turn of the first role: the prompt in the campaign's chat template."""
    output: str
    seed: int
    finish_reason: Literal["stop", "length", "error"]
    error: str | None
    num_output_tokens: int | None
    """null: unknown."""
    kept: bool
    rejected_by: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class PreviewBody:
    """`headrace preview --json`."""

    campaign: str
    day: str
    version_set: str
    num_rows_of_day: int
    rows: tuple[PreviewedRowBody, ...]


@dataclass(frozen=True, kw_only=True)
class RunBody:
    """`headrace run --json`."""

    campaign: str
    day: str
    partitions: tuple[str, ...]
    num_rows: int
    num_kept: int
    report: str
    """The day's page."""
    rows: tuple[Row, ...]
    """Of reviewed_content, rejected ones too, with the columns that the campaign carries."""


@dataclass(frozen=True, kw_only=True)
class TracedModelBody:
    role: str
    model: str
    version: str
    weights_digest: str
    kind: str | None
    """base or trained; null: a server's own model, or its registration is not in this store."""
    recipe: str | None
    mlflow_run_id: str | None
    training_inputs: dict[str, str]
    """`asset[partition]` → version and content digest, for a trained model."""


@dataclass(frozen=True, kw_only=True)
class PromptPlaceBody:
    file: str
    """Below HEADRACE_HOME, or absolute."""
    number: int
    """From 1 on."""
    unit: Literal["line", "row"]
    """A line as an editor counts; in Parquet, which has none, a row."""
    now: Literal["unchanged", "changed", "gone"]
    """The file, since the prompts were listed from it."""


@dataclass(frozen=True, kw_only=True)
class TraceBody:
    """`headrace trace --json`. null: not in this store (any more)."""

    row: Row
    partition: str
    version: int
    sealed_at: str
    prompt: Row | None
    prompts_version: int | None
    place: PromptPlaceBody | None
    """Where the prompt stood; null: it was listed before places were kept, too."""
    run: Row | None
    review: Row | None
    version_set: dict[str, Any] | None
    models: tuple[TracedModelBody, ...]
    replaced_by: int | None
    """The version of the partition that does not have the row any more; null: the newest one has it."""
    is_in_newest: bool | None
    """null: the newest version of the partition cannot be read."""
    damaged: tuple[str, ...]
    """What could not be read, and was left out."""


@dataclass(frozen=True, kw_only=True)
class DayBody:
    campaign: str
    day: str
    num_partitions: int
    num_prompts: int
    """Partitions with sealed prompts; as for the next two."""
    num_generated_content: int
    num_reviewed_content: int
    num_rows: int
    num_kept: int
    version_sets: dict[str, str]
    """Id → its models in words."""
    num_damaged: int
    """Partitions that cannot be read."""


@dataclass(frozen=True, kw_only=True)
class FailedRunBody:
    run_id: str
    name: str
    ended: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class StatusBody:
    """`headrace status --json`."""

    at: str
    days: tuple[DayBody, ...]
    rollouts: dict[str, str]
    running: tuple[dict[str, Any], ...]
    """As in `headrace queue --json`."""
    waiting: tuple[dict[str, Any], ...]
    failed: tuple[FailedRunBody, ...]
    """In the last day, where no later run of the same job has made the partition."""


@dataclass(frozen=True, kw_only=True)
class ModelsBody:
    """`headrace model ls --json`. Losses are nats per token, times seconds since the epoch."""

    models: tuple[ModelVersion, ...]


@dataclass(frozen=True, kw_only=True)
class ShownModelBody:
    """`headrace model show --json`."""

    model: ModelVersion
    directory: str
    """Where the files are."""
    load: str
    """The line of Python that loads them."""


@dataclass(frozen=True, kw_only=True)
class DroppedDocumentBody:
    shard: str
    document_id: str
    file: str
    line: int
    """In Parquet, its row."""
    excerpt: str
    """The first characters of its text, normalised."""
    rule: str
    measured: float | int | str | None
    """A number, or what the rule found; of a near duplicate its similarity; null: the rule measures nothing."""
    limit: float | int | str | None
    """What the corpus file says of the rule; null: it has no limit."""
    copy_of: str | None
    """Of a duplicate: the id of the document that is kept."""


@dataclass(frozen=True, kw_only=True)
class DroppedShardBody:
    shard: str
    num_documents: int
    counts: dict[str, int]
    """Every rule → how many documents it drops; one counts for the first rule that drops it."""
    clean_documents_version: int | None
    """null: none is sealed yet."""
    is_as_sealed: bool | None
    """Whether that version left out the same documents; null: there is none."""


@dataclass(frozen=True, kw_only=True)
class DroppedBody:
    """`headrace dropped --json`."""

    shards: tuple[DroppedShardBody, ...]
    unread_shards: tuple[str, ...]
    """Their raw_documents are not sealed yet."""
    looked_at_length: bool
    """false: the base model is not on this machine, so nobody knows what is too long for a sequence."""
    num_documents_listed: int
    """All that are dropped, or those of the wanted rule; `documents` may hold fewer."""
    documents: tuple[DroppedDocumentBody, ...]


BODIES: Mapping[str, type] = {
    "preview": PreviewBody,
    "run": RunBody,
    "trace": TraceBody,
    "status": StatusBody,
    "model": ModelsBody,
    "dropped": DroppedBody,
}
