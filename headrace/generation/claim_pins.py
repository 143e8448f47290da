"""What generation still needs of the store: input versions that claims pin, and micro-batches that nobody reads again.

Read by garbage collection. A partition's last attempt on some inputs speaks for all attempts before it.
"""

import json
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from headrace.errors import ObjectMissing
from headrace.keys import partition_from_path
from headrace.store.objects import ObjectStore

ROOT = "claims/generated_content"
BATCHES = "batches"
_SETTLED = ".settled.json"
_READERS = 16

VersionName = tuple[str, str, int]


@dataclass(frozen=True, kw_only=True)
class SettledClaim:
    """`is_sealed`: its rows are published, or will be by whoever opens the claim next, out of its micro-batches.

    `is_mirror`: they are sealed as a mirror, which is no published content.
    """

    id: str
    partition: str
    is_sealed: bool
    is_mirror: bool = False

    @property
    def batches_prefix(self) -> str:
        return f"{BATCHES}/{self.id}"


@dataclass(frozen=True, kw_only=True)
class ClaimPins:
    """`in_use`: an attempt, or a run that has not claimed yet, reads this version. Values say who, for people.

    `finished`: the last attempt on this version is sealed. It is opened again only when the partition's newest inputs
    hold the same.
    """

    in_use: Mapping[VersionName, str]
    finished: Mapping[VersionName, str]
    settled: tuple[SettledClaim, ...]


def read_claim_pins(objects: ObjectStore) -> ClaimPins:
    in_use: dict[VersionName, str] = {}
    finished: dict[VersionName, str] = {}
    settled: list[SettledClaim] = []
    bodies = _read_all(objects, objects.list(ROOT))
    attempts = {key: body for key, body in bodies.items() if "/runs/" not in key and not key.endswith(_SETTLED)}
    settlements = {key.removesuffix(_SETTLED): body for key, body in bodies.items() if key.endswith(_SETTLED)}
    last: dict[tuple[str, str], str] = {}
    for key in sorted(attempts):
        claim = attempts[key]
        last[claim["partition"], claim["inputs_digest"]] = key
        if settlement := settlements.get(key.removesuffix(".json")):
            is_sealed = settlement["outcome"] == "sealed"
            settled.append(
                SettledClaim(
                    id=claim["id"],
                    partition=claim["partition"],
                    is_sealed=is_sealed,
                    is_mirror=claim.get("kind") == "mirror",
                )
            )
    for key in last.values():
        claim, settlement = attempts[key], settlements.get(key.removesuffix(".json"))
        if settlement is not None and settlement["outcome"] == "void" and claim.get("kind") == "mirror":
            continue  # of a set that was rolled back: it has no next attempt
        is_finished = settlement is not None and settlement["outcome"] == "sealed"
        pins, state = (finished, "sealed") if is_finished else (in_use, "void" if settlement else "under way")
        _pin(pins, claim, claim["partition"], f"claim {claim['id'][:12]} ({state})")
    for key, run in bodies.items():
        if "/runs/" in key:
            partition = partition_from_path(key.split("/")[2])
            if (partition, run["inputs_digest"]) not in last:
                _pin(in_use, run, partition, f"run {key.rpartition('/')[2].removesuffix('.json')}")
    return ClaimPins(in_use=in_use, finished=finished, settled=tuple(settled))


def _pin(pins: dict[VersionName, str], body: dict, partition: str, who: str) -> None:
    for asset, version in body["inputs"].items():
        pins[asset, partition, version] = who


def _read_all(objects: ObjectStore, keys: Iterable[str]) -> dict[str, dict]:
    def read(key: str) -> dict | None:
        try:
            return json.loads(objects.read(key))
        except ObjectMissing:
            return None

    keys = list(keys)
    with ThreadPoolExecutor(_READERS) as readers:
        return {key: body for key, body in zip(keys, readers.map(read, keys), strict=True) if body is not None}
