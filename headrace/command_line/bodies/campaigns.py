"""Of `headrace run` and `trace`."""

from dataclasses import dataclass
from typing import Any, Literal

Row = dict[str, Any]


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
class MissingBody:
    job: str
    """The job that would make it."""
    asset: str
    partition: str


@dataclass(frozen=True, kw_only=True)
class DryRunBody:
    """`headrace run --dry-run --json`."""

    campaign: str
    day: str
    missing: tuple[MissingBody, ...]
    """What a run would begin with; what follows from it comes then. Empty: all is made."""


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
class TracedPartBody:
    role: str
    run: Row
    """What was asked, from which seed, by which run, and how it ended."""
    item: Row | None
    """Its row in the index, with the digest of its bytes; null: nothing was made, or it is gone."""
    asset: str | None
    version: int | None
    """The version that has the item; null as for item."""


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
    is_mirrored: bool
    """Made to compare with a published row, and never published."""
    comparison: Row | None
    """Of a mirror's row with the published one, and both verdicts."""
    version_set: dict[str, Any] | None
    models: tuple[TracedModelBody, ...]
    parts: tuple[TracedPartBody, ...]
    """Its pictures and recordings, in the order of the chain."""
    replaced_by: int | None
    """The version of the partition that does not have the row any more; null: the newest one has it."""
    is_in_newest: bool | None
    """null: the newest version of the partition cannot be read."""
    damaged: tuple[str, ...]
    """What could not be read, and was left out."""
