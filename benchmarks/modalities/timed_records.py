"""What timed devices did, from their records: for how much of the time one worked, and when it did not. Pure."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

SMOKE_TEST = "smoke-test"


@dataclass(frozen=True, kw_only=True)
class Record:
    """One item on one device. `begun`, `ended`: seconds since the epoch."""

    kind: str
    unit: str
    device: str
    begun: float
    ended: float
    process: int


@dataclass(frozen=True, kw_only=True)
class Gap:
    """`is_within_process`: the items before and after it are the same process's."""

    begun: float
    seconds: float
    is_within_process: bool


def records_in(directory: Path) -> list[Record]:
    """By their begin; without what a rollout's smoke test asked."""
    lines = (line for file in directory.glob("*.jsonl") for line in file.read_text().splitlines())
    found = (Record(**json.loads(line)) for line in lines)
    return sorted((one for one in found if one.unit != SMOKE_TEST), key=lambda one: one.begun)


def busy_share(records: Sequence[Record]) -> float:
    """The share of the time between the first item's begin and the last one's end in which any was being made."""
    whole = max(one.ended for one in records) - min(one.begun for one in records)
    return 1 - sum(gap.seconds for gap in gaps(records)) / whole


def gaps(records: Sequence[Record]) -> list[Gap]:
    """The pauses between items, the longest first."""
    found: list[Gap] = []
    ordered = sorted(records, key=lambda one: one.begun)
    last = ordered[0]
    for one in ordered[1:]:
        if one.begun > last.ended:
            is_within = one.process == last.process
            found.append(Gap(begun=last.ended, seconds=one.begun - last.ended, is_within_process=is_within))
        last = max(last, one, key=lambda record: record.ended)
    return sorted(found, key=lambda gap: -gap.seconds)
