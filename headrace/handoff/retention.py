"""Decides which sealed versions stay and which may go: a pure function of a snapshot of the store.

These stay: the newest versions of each partition, versions that somebody names (Dagster's latest materialization, a
claim) or leases protect, versions superseded less than a grace time ago, and unreadable ones: nobody can tell a damaged
manifest's parts from orphans. What a room says belongs to a version stays with it. Other inputs of kept versions may
go: a collected version leaves a note, so lineage still resolves. The leases at collection time decide in the end.
"""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from headrace.errors import InvalidInput
from headrace.keys import partition_path
from headrace.store.protection import Belonging, Protections


@dataclass(frozen=True, kw_only=True)
class FoundVersion:
    """A manifest in the store. `sealed_at` is by the store's clock; `damage` says why it cannot be read."""

    asset: str
    partition: str
    version: int
    manifest_key: str
    sealed_at: float
    nonce: str = ""
    content_digest: str = ""
    num_bytes: int = 0
    prefix: str = ""
    damage: str | None = None
    hands_on_weights: bool = False
    # What its manifest states: tells what belongs to what, and is its note once it is gone.
    facts: Mapping[str, Any] = field(default_factory=dict, compare=False)

    @property
    def place(self) -> tuple[str, str]:
        """Its partition, the same for readable and unreadable manifests."""
        return self.asset, partition_path(self.partition)

    @property
    def label(self) -> str:
        return f"{self.asset}[{self.partition}] v{self.version}"


@dataclass(frozen=True, kw_only=True)
class FoundParts:
    """One writer's objects that no manifest names: an orphan, or a version in the making."""

    asset: str
    partition: str
    nonce: str
    prefix: str
    num_bytes: int
    written_at: float

    @property
    def label(self) -> str:
        return f"{self.asset}[{self.partition}] parts {self.nonce[:8]}"

    @property
    def place(self) -> tuple[str, str]:
        return self.asset, partition_path(self.partition)


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """The basis of a decision.

    Attributes:
        now: seconds since the epoch by the store's clock, at the latest.
        leased: nonces with a lease that is, or may be, in force.
        taken: nonces that a collector decided to take.
        doubtful: nonces for which a collector's decision cannot be read.
        unread: path segments of partitions with an unreadable claim or run pin, and which one: it may pin any version
            there.
    """

    now: float
    versions: tuple[FoundVersion, ...]
    unnamed: tuple[FoundParts, ...] = ()
    leased: frozenset[str] = frozenset()
    taken: frozenset[str] = frozenset()
    doubtful: frozenset[str] = frozenset()


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """`reason`: why it is kept or collected, for people."""

    found: FoundVersion
    is_kept: bool
    reason: str


@dataclass(frozen=True, kw_only=True)
class PartsVerdict:
    found: FoundParts
    is_kept: bool
    reason: str


def decide_versions(
    snapshot: Snapshot,
    protections: Protections,
    belongings: Sequence[Belonging] = (),
    *,
    keep_versions: int,
    grace_seconds: float,
) -> tuple[Verdict, ...]:
    """A verdict on every version, in the snapshot's order.

    Args:
        belongings: what stays with what; what belongs to something that belongs to a version comes after that.

    Raises:
        InvalidInput: `keep_versions` is below 1: a partition needs its newest version.
    """
    if keep_versions < 1:
        raise InvalidInput(f"keep_versions must be at least 1, got {keep_versions}.")
    partitions: dict[tuple[str, str], list[FoundVersion]] = defaultdict(list)
    for found in snapshot.versions:
        partitions[found.place].append(found)
    reasons: dict[str, str | None] = {}
    for versions in partitions.values():
        versions.sort(key=lambda found: found.version)
        # Unreadable versions do not count among the newest: a partition keeps that many good ones.
        whole = _whole(snapshot, versions)
        newest = {found.version for found in whole[-keep_versions:]}
        contents = {found.content_digest for found in whole[-keep_versions:]}
        for place, found in enumerate(versions):
            superseded_at = versions[place + 1].sealed_at if place + 1 < len(versions) else None
            reasons[found.manifest_key] = _keeps(
                snapshot, protections, found, keep_versions, newest, contents
            ) or _is_young(snapshot.now, superseded_at, grace_seconds)
    for belonging in belongings:
        reasons |= _belonging_reasons(snapshot, partitions, reasons, belonging)
    verdicts = []
    for found in snapshot.versions:
        # A collector took its parts before it was sealed: its writer had been stopped for longer than the grace time.
        is_lost = found.nonce in snapshot.taken and not found.damage
        reason = None if is_lost else reasons[found.manifest_key]
        gone = "a collector took its parts" if is_lost else f"older than the newest {keep_versions}"
        verdicts.append(Verdict(found=found, is_kept=reason is not None, reason=reason or gone))
    return tuple(verdicts)


def _belonging_reasons(
    snapshot: Snapshot,
    partitions: Mapping[tuple[str, str], Sequence[FoundVersion]],
    reasons: Mapping[str, str | None],
    belonging: Belonging,
) -> dict[str, str | None]:
    """Reasons to keep, for versions that have none of their own."""
    found: dict[str, str | None] = {}
    for (asset, partition), owners in partitions.items():
        if asset != belonging.of:
            continue
        theirs = _whole(snapshot, partitions.get((belonging.asset, partition), ()))
        for owner in _whole(snapshot, owners):
            if reasons[owner.manifest_key] is None:
                continue
            mine = [one for one in theirs if belonging.belongs(one.facts, owner.facts)]
            if mine and reasons[mine[-1].manifest_key] is None:
                found[mine[-1].manifest_key] = f"belongs to a version of {asset} that stays"
    return found


def _whole(snapshot: Snapshot, versions: Collection[FoundVersion]) -> list[FoundVersion]:
    return [found for found in versions if not found.damage and found.nonce not in snapshot.taken]


def decide_parts(snapshot: Snapshot, *, grace_seconds: float) -> tuple[PartsVerdict, ...]:
    """A verdict on the objects that no manifest names."""
    damaged = {found.place: found for found in snapshot.versions if found.damage}
    verdicts = []
    for found in snapshot.unnamed:
        age = snapshot.now - found.written_at
        reason = None
        if unreadable := damaged.get(found.place):
            reason = f"the damaged manifest of {unreadable.label} may name it"
        elif found.nonce in snapshot.leased:
            reason = "leased: it is being written"
        elif found.nonce in snapshot.doubtful:
            reason = "what a collector decided about it cannot be read"
        elif age <= grace_seconds:
            reason = f"written {_hours(age)} ago, less than the grace time"
        gone = f"no manifest names it, last written {_hours(age)} ago"
        verdicts.append(PartsVerdict(found=found, is_kept=reason is not None, reason=reason or gone))
    return tuple(verdicts)


def _keeps(
    snapshot: Snapshot,
    protections: Protections,
    found: FoundVersion,
    keep_versions: int,
    newest: set[int],
    contents: set[str],
) -> str | None:
    if found.damage:
        return f"its manifest cannot be read ({found.damage})"
    if found.version in newest:
        return f"among the newest {keep_versions}"
    if reason := protections.of(found.manifest_key, is_newest_content=found.content_digest in contents):
        return reason
    if found.nonce in snapshot.doubtful:
        return "what a collector decided about it cannot be read"
    return "leased: it is being read" if found.nonce in snapshot.leased else None


def _is_young(now: float, superseded_at: float | None, grace_seconds: float) -> str | None:
    """A reader may have found the version while it was the newest, without having taken a lease yet."""
    if superseded_at is None:
        return "the newest"
    age = now - superseded_at
    return f"superseded {_hours(age)} ago, less than the grace time" if age <= grace_seconds else None


def _hours(seconds: float) -> str:
    return f"{seconds / 3600:.1f} h"
