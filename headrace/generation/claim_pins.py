"""The pins of all campaigns' claims and runs, for garbage collection (`headrace.generation.protection`).

A partition's last attempt on some inputs replaces all attempts before it.
"""

from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TypeVar

from headrace.errors import HandoffCorrupt, ObjectMissing
from headrace.generation.claim_objects import (
    CLAIM,
    ROOT,
    RUN_PIN,
    SETTLED,
    SETTLEMENT,
    Claim,
    RunPin,
    batches_prefix,
    is_claim,
    is_run_pin,
)
from headrace.keys import partition_from_path
from headrace.store.objects import ObjectStore
from headrace.store.small_objects import Damaged, Kind, read_object

T = TypeVar("T")

_READERS = 16

VersionName = tuple[str, str, int]


@dataclass(frozen=True, kw_only=True)
class SettledClaim:
    """`is_sealed`: its rows are published, or the next process that opens the claim publishes its micro-batches.

    `is_mirror`: they are sealed as a mirror, not as published content.
    """

    id: str
    partition: str
    version_set: str
    is_sealed: bool
    is_mirror: bool = False

    @property
    def batches_prefix(self) -> str:
        return batches_prefix(self.id)


@dataclass(frozen=True, kw_only=True)
class ClaimPins:
    """`in_use`: versions that an attempt reads, or a run without a claim; the values name the reader, for people.

    `finished`: the last attempt on this version is sealed. It opens again only if the partition's newest inputs have
    the same content.
    """

    in_use: Mapping[VersionName, str]
    finished: Mapping[VersionName, str]
    settled: tuple[SettledClaim, ...]
    # Version set → a running or starting attempt or mirror on it.
    version_sets: Mapping[str, str]
    # A partition's path segment → its unreadable claim, settlement or run pin, which may pin any version.
    unread: Mapping[str, str] = field(default_factory=dict)


def read_claim_pins(objects: ObjectStore, *, damaged: Damaged | None = None) -> ClaimPins:
    """Args:
        damaged: called for unreadable objects.

    Raises:
        HandoffCorrupt: an object cannot be read, and `damaged` is None.
    """
    unread: dict[str, str] = {}

    def passed_over(error: HandoffCorrupt) -> None:
        if damaged is None or error.key is None:
            raise error
        damaged(error)
        unread[error.key.split("/")[2]] = error.key

    keys = objects.list(ROOT)
    claims = _read_all(objects, filter(is_claim, keys), CLAIM, passed_over)
    runs = _read_all(objects, filter(is_run_pin, keys), RUN_PIN, passed_over)
    ends = (key for key in keys if key.endswith(SETTLED) and is_claim(key.removesuffix(SETTLED) + ".json"))
    settlements = {
        key.removesuffix(SETTLED) + ".json": settlement
        for key, settlement in _read_all(objects, ends, SETTLEMENT, passed_over).items()
    }
    in_use: dict[VersionName, str] = {}
    finished: dict[VersionName, str] = {}
    version_sets: dict[str, str] = {}
    settled: list[SettledClaim] = []
    last: dict[tuple[str, str], str] = {}
    for key in sorted(claims):
        claim = claims[key]
        last[claim.partition, claim.inputs_digest] = key
        if settlement := settlements.get(key):
            is_sealed, is_mirror = settlement.outcome == "sealed", claim.kind == "mirror"
            settled.append(
                SettledClaim(
                    id=claim.id,
                    partition=claim.partition,
                    version_set=claim.version_set,
                    is_sealed=is_sealed,
                    is_mirror=is_mirror,
                )
            )
        else:
            version_sets[claim.version_set] = f"claim {claim.id[:12]} (under way)"
    for key in last.values():
        claim, settlement = claims[key], settlements.get(key)
        if settlement is not None and settlement.outcome == "void" and claim.kind == "mirror":
            continue  # its set was rolled back: no next attempt
        is_finished = settlement is not None and settlement.outcome == "sealed"
        pins, state = (finished, "sealed") if is_finished else (in_use, "void" if settlement else "under way")
        _pin(pins, claim, claim.partition, f"claim {claim.id[:12]} ({state})")
    for key, run in runs.items():
        partition = _partition_of(key)
        if (partition, run.inputs_digest) not in last:
            who = f"run {key.rpartition('/')[2].removesuffix('.json')}"
            _pin(in_use, run, partition, who)
            if run.version_set:
                version_sets[run.version_set] = who
    return ClaimPins(in_use=in_use, finished=finished, settled=tuple(settled), version_sets=version_sets, unread=unread)


def _pin(pins: dict[VersionName, str], pinned: Claim | RunPin, partition: str, who: str) -> None:
    for asset, version in pinned.inputs.items():
        pins[asset, partition, version] = who


def _partition_of(key: str) -> str:
    return partition_from_path(key.split("/")[2])


def _read_all(
    objects: ObjectStore, keys: Iterable[str], kind: Kind[T], passed_over: Callable[[HandoffCorrupt], None]
) -> dict[str, T]:
    def read(key: str) -> T | HandoffCorrupt | None:
        try:
            return read_object(objects, key, kind)
        except ObjectMissing:
            return None
        except HandoffCorrupt as error:
            return error

    keys, found = list(keys), dict[str, T]()
    with ThreadPoolExecutor(_READERS) as readers:
        for key, one in zip(keys, readers.map(read, keys), strict=True):
            if isinstance(one, HandoffCorrupt):
                passed_over(one)
            elif one is not None:
                found[key] = one
    return found
