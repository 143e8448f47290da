"""Campaigns' days as the store has them: what each stage has made, and what no longer follows from what it read.

Reads one listing an asset and the manifests of the shown days; rows only of reviews that were sealed without their
count, by an earlier Headrace or by another asset. Imports Arrow for those alone.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from headrace.errors import HandoffCorrupt
from headrace.generation.freshness import is_made_from, is_of_older_set, is_report_older, is_rolled_back
from headrace.generation.left_behind import left_behind
from headrace.handoff.layout import asset_prefix
from headrace.handoff.manifest import Manifest
from headrace.handoff.manifests import newest_manifest
from headrace.keys import ContentPartition, partition_from_path
from headrace.rollout.states import RolloutState
from headrace.store.objects import ObjectStore
from headrace.version_sets.sets import VersionSets

NUM_KEPT = "num_kept"
"""The attribute of a sealed review that counts its kept rows."""
PROMPTS, CONTENT, REVIEWED = STAGES = ("prompts", "generated_content", "reviewed_content")
Reason = Literal["prompts_changed", "rolled_back", "older_version_set", "content_changed", "rows_are_newer"]
_SENTENCES: Mapping[Reason, str] = {
    "prompts_changed": "made from prompts that have changed since",
    "rolled_back": "made by a version set that was rolled back",
    "older_version_set": "made by a version set that the rollout has replaced",
    "content_changed": "reviewed before the rows were made again",
    "rows_are_newer": "reported on before the last rows",
}


@dataclass(frozen=True, kw_only=True)
class Stale:
    """Partitions of one stage that do not follow from what they were made of any more."""

    stage: Literal["generated_content", "reviewed_content", "campaign_report"]
    reason: Reason
    num_partitions: int
    run: str
    """The command that makes them again."""

    @property
    def sentence(self) -> str:
        return _SENTENCES[self.reason]


@dataclass(frozen=True, kw_only=True)
class DayStatus:
    """One campaign's day."""

    campaign: str
    day: str
    num_partitions: int
    """Without those that a lower num_shards left behind."""
    num_left_behind: int
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
    stale: tuple[Stale, ...]
    """What is made, and should be made again; a partition counts once a stage."""

    @property
    def made(self) -> tuple[int, int, int]:
        """Sealed partitions by stage, in the order of `STAGES`."""
        return self.num_prompts, self.num_generated_content, self.num_reviewed_content


def read_days(
    objects: ObjectStore,
    rollouts: Mapping[str, RolloutState | None],
    reports: Path,
    *,
    num_days: int,
    campaign: str | None = None,
) -> tuple[DayStatus, ...]:
    """The newest days of every campaign that has prompts or rows.

    Args:
        campaign: None: of every one.
        rollouts: by campaign; one that is left out, or None, has no version set to compare with.
        reports: the directory of the days' pages.
    """
    partitions: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for stage in STAGES:
        for key in map(partition_from_path, objects.children(asset_prefix(stage))):
            part = ContentPartition.find(key)
            if part and campaign in (None, part.campaign):
                partitions[part.campaign][part.day].add(key)
    labels = VersionSets(objects)
    return tuple(
        _day(
            {key: _Partition.read(objects, key) for key in sorted(days[day])},
            name,
            day,
            rollouts.get(name),
            reports / f"{day}.html",
            labels,
        )
        for name, days in sorted(partitions.items())
        for day in sorted(days)[-num_days:]
    )


@dataclass(kw_only=True)
class _Partition:
    """The newest version of each stage; those that cannot be read are left out."""

    newest: dict[str, Manifest] = field(default_factory=dict)
    num_kept: int = 0
    is_damaged: bool = False

    @classmethod
    def read(cls, objects: ObjectStore, key: str) -> "_Partition":
        found = cls()
        for stage in STAGES:
            try:
                newest = newest_manifest(objects, stage, key)
                if newest and stage == REVIEWED:
                    found.num_kept = _num_kept(objects, newest)
            except HandoffCorrupt:
                found.is_damaged = True
                continue
            if newest:
                found.newest[stage] = newest
        return found


def _num_kept(objects: ObjectStore, reviewed: Manifest) -> int:
    """Raises: HandoffCorrupt: the rows had to be read, and are damaged."""
    if (counted := reviewed.attributes.get(NUM_KEPT, "")).isdecimal():
        return int(counted)
    from headrace.handoff.versions import HandoffStore

    rows = HandoffStore(objects).open(reviewed.asset, reviewed.partition, reviewed.version)
    return sum(rows.table(["kept"])["kept"].to_pylist())


def _day(
    found: Mapping[str, _Partition],
    campaign: str,
    day: str,
    state: RolloutState | None,
    report: Path,
    labels: VersionSets,
) -> DayStatus:
    left = left_behind({key: part.newest[PROMPTS] for key, part in found.items() if PROMPTS in part.newest})
    partitions = [part for key, part in found.items() if key not in left]
    content = [part.newest[CONTENT] for part in partitions if CONTENT in part.newest]
    sets = dict.fromkeys(each.attributes.get("version_set", "") for each in content)
    return DayStatus(
        campaign=campaign,
        day=day,
        num_partitions=len(partitions),
        num_left_behind=len(left),
        num_prompts=sum(PROMPTS in part.newest for part in partitions),
        num_generated_content=len(content),
        num_reviewed_content=sum(REVIEWED in part.newest for part in partitions),
        num_rows=sum(each.num_rows for each in content),
        num_kept=sum(part.num_kept for part in partitions),
        version_sets={one: labels.label(one) for one in sets if one},
        num_damaged=sum(part.is_damaged for part in partitions),
        stale=tuple(
            _stale({key: part for key, part in found.items() if key not in left}, campaign, day, state, report)
        ),
    )


def _stale(
    partitions: Mapping[str, _Partition], campaign: str, day: str, state: RolloutState | None, report: Path
) -> Iterable[Stale]:
    by_reason: dict[Reason, list[str]] = defaultdict(list)
    for key, part in partitions.items():
        if reason := _content_reason(part.newest, state):
            by_reason[reason].append(key)
    for reason, keys in by_reason.items():
        run = _again(campaign, day, CONTENT, keys[0], is_complete=reason == "older_version_set")
        yield Stale(stage=CONTENT, reason=reason, num_partitions=len(keys), run=run)
    unreviewed = [
        key
        for key, part in partitions.items()
        if {CONTENT, REVIEWED} <= {*part.newest} and not is_made_from(part.newest[REVIEWED], part.newest[CONTENT])
    ]
    if unreviewed:
        run = _again(campaign, day, REVIEWED, unreviewed[0])
        yield Stale(stage=REVIEWED, reason="content_changed", num_partitions=len(unreviewed), run=run)
    rows = (each for part in partitions.values() for stage, each in part.newest.items() if stage != PROMPTS)
    if is_report_older(report, rows):
        run = _again(campaign, day, "campaign_report", next(iter(partitions)))
        yield Stale(stage="campaign_report", reason="rows_are_newer", num_partitions=1, run=run)


def _again(campaign: str, day: str, stage: str, key: str, *, is_complete: bool = False) -> str:
    """What makes `key`, the first stale partition, again: of shards the whole day, of windows one after the other.

    Args:
        is_complete: its rows are those of a replaced set, which a run returns as they are unless it is told.
    """
    part = ContentPartition.find(key)
    if part is None or part.window is None:
        return f"headrace run {campaign} --day {day}{' --again' if is_complete else ''}"
    partition = day if stage == "campaign_report" else f"'{key}'"
    config = """ --config-json '{"ops": {"generated_content": {"config": {"regenerate": "current_set"}}}}'"""
    return f"dg launch --assets {stage} --partition {partition}{config if is_complete else ''}"


def _content_reason(newest: Mapping[str, Manifest], state: RolloutState | None) -> Reason | None:
    if (content := newest.get(CONTENT)) is None:
        return None
    if (prompts := newest.get(PROMPTS)) and not is_made_from(content, prompts):
        return "prompts_changed"
    if is_rolled_back(content, state):
        return "rolled_back"
    return "older_version_set" if is_of_older_set(content, state) else None
