"""Of `headrace doctor` and `headrace gc`."""

from dataclasses import dataclass

from headrace.store.mounts import Finding


@dataclass(frozen=True, kw_only=True)
class ExaminedBody:
    """`headrace doctor --json`."""

    well: bool
    """false: a check failed."""
    findings: tuple[Finding, ...]


@dataclass(frozen=True, kw_only=True)
class VersionVerdictBody:
    asset: str
    partition: str
    version: int
    num_bytes: int
    kept: bool
    reason: str


@dataclass(frozen=True, kw_only=True)
class OrphanVerdictBody:
    """Parts that no manifest names."""

    asset: str
    partition: str
    nonce: str
    num_bytes: int
    kept: bool
    reason: str


@dataclass(frozen=True, kw_only=True)
class MicroBatchesBody:
    prefix: str
    num_bytes: int
    reason: str


@dataclass(frozen=True, kw_only=True)
class OtherVerdictBody:
    """Weights, checkpoints, evidence."""

    kind: str
    key: str
    num_bytes: int
    kept: bool
    reason: str


@dataclass(frozen=True, kw_only=True)
class PlanBody:
    """What would go and what stays."""

    num_bytes: int
    """Of what would go."""
    versions: tuple[VersionVerdictBody, ...]
    orphans: tuple[OrphanVerdictBody, ...]
    micro_batches: tuple[MicroBatchesBody, ...]
    """Those that would go."""
    others: tuple[OtherVerdictBody, ...]
    num_expired_leases: int
    num_leftovers: int
    """Tombstones of an earlier collection."""
    damaged: tuple[str, ...]
    """What could not be read, in sentences: everything that it may protect stays."""


@dataclass(frozen=True, kw_only=True)
class KeptAfterAllBody:
    """A version has asset, partition and version; other objects have a key."""

    asset: str | None
    partition: str | None
    version: int | None
    key: str | None
    fate: str
    """leased, sealed, spared or damaged."""


@dataclass(frozen=True, kw_only=True)
class ReportBody:
    """What went."""

    num_bytes: int
    num_versions: int
    num_orphans: int
    num_micro_batches: int
    num_others: int
    num_expired_leases: int
    kept_after_all: tuple[KeptAfterAllBody, ...]
    damaged: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class CollectionBody:
    """`headrace gc --json`."""

    plan: PlanBody
    report: ReportBody | None
    """null: nothing was deleted."""
