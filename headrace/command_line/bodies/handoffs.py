"""Of `headrace handoff ls`, `show`, `verify` and `diff`."""

from dataclasses import dataclass
from typing import Any

Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class HolderBody:
    """A process that reads or writes a version now."""

    host: str
    pid: int
    until: float
    """Seconds since the epoch; a live holder extends it."""


@dataclass(frozen=True, kw_only=True)
class ListedBody:
    """A version. null: its manifest is damaged."""

    asset: str
    partition: str
    version: int
    damaged: bool
    num_rows: int | None
    num_bytes: int | None
    num_parts: int | None
    content_digest: str | None
    created_at: str | None
    age_seconds: int
    held_by: tuple[HolderBody, ...]


@dataclass(frozen=True, kw_only=True)
class ListBody:
    """`headrace handoff ls --json`."""

    store: str
    versions: tuple[ListedBody, ...]


@dataclass(frozen=True, kw_only=True)
class PartBody:
    key: str
    num_rows: int
    num_bytes: int


@dataclass(frozen=True, kw_only=True)
class ColumnBody:
    name: str
    type: str
    """Arrow's, with text in its plain spelling."""
    nullable: bool


@dataclass(frozen=True, kw_only=True)
class ShownBody:
    """`headrace handoff show --json`."""

    asset: str
    partition: str
    version: int
    uri: str
    content_digest: str
    num_rows: int
    num_bytes: int
    code_version: str
    run_id: str
    input_versions: dict[str, str]
    """`asset[partition]` → version and content digest."""
    attributes: dict[str, str]
    created_at: str
    parts: tuple[PartBody, ...]
    schema: tuple[ColumnBody, ...]
    schema_fingerprint: str
    write_seconds: float
    write_mb_per_s: float | None
    """null: it took no time that could be measured."""
    held_by: tuple[HolderBody, ...]
    rows: tuple[Row, ...]
    """The first ones, as many as asked for. Bytes are base64."""


@dataclass(frozen=True, kw_only=True)
class Damage:
    asset: str
    partition: str
    version: int | None
    """null: no version of the partition can be opened."""
    kind: str
    """The error's name, such as PartFlipped."""
    what: str
    """Where, and what to do."""

    @property
    def label(self) -> str:
        return f"{self.asset}[{self.partition}]" + (f" v{self.version}" if self.version is not None else "")


@dataclass(frozen=True, kw_only=True)
class VerifiedBody:
    """`headrace handoff verify --json`."""

    num_verified: int
    num_bytes: int
    damaged: tuple[Damage, ...]


@dataclass(frozen=True, kw_only=True)
class NumRowsBody:
    before: int
    after: int


@dataclass(frozen=True, kw_only=True)
class ChangedValueBody:
    before: Any
    after: Any


@dataclass(frozen=True, kw_only=True)
class ChangedRowBody:
    key: Row
    """The row's key, or its position (from 0) under `row`."""
    values: dict[str, ChangedValueBody]


@dataclass(frozen=True, kw_only=True)
class ComparedBody:
    """`headrace handoff diff --json`. Counts are exact; rows are samples, the first by position."""

    before: str
    after: str
    key: tuple[str, ...]
    """Empty: compared by position."""
    same: bool
    num_rows: NumRowsBody
    schema: tuple[str, ...]
    """One line for each difference in columns."""
    num_same: int
    num_added: int
    num_removed: int
    num_changed: int
    changed_columns: dict[str, int]
    """By column that both have: rows whose value changed."""
    added: tuple[Row, ...]
    removed: tuple[Row, ...]
    changed: tuple[ChangedRowBody, ...]
