"""Checks sealed content: rows against their prompts, and prompts against the prompt files."""

from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa

from headrace.errors import HandoffMissing
from headrace.generation.campaign import Campaign
from headrace.generation.carried_columns import carried_rows
from headrace.generation.prompts_left import as_sealed, prompts_left
from headrace.generation.requests import prompts_of_day
from headrace.generation.sealed_tables import version_read
from headrace.generation.window_prompts import prompts_of_window, sealed_window
from headrace.handoff.content_digest import digest_of
from headrace.handoff.schemas import NUM_VARIATIONS, PROMPTS, VARIATION, carried_fields
from headrace.handoff.versions import Handoff, HandoffStore
from headrace.keys import ContentPartition


@dataclass(frozen=True, kw_only=True)
class Finding:
    """The result of one check, with its counts."""

    passed: bool
    description: str
    figures: dict[str, int] = field(default_factory=dict)


def check_content(handoffs: HandoffStore, partition: str) -> dict[str, Finding]:
    """Findings on a partition's newest generated_content, by name of the check.

    Raises:
        HandoffMissing: the partition is not sealed, or its prompts are gone.
        HandoffCorrupt: either is damaged.
    """
    content = handoffs.open("generated_content", partition)
    prompts = handoffs.open("prompts", partition, version_read(content, "prompts"))
    rows = content.table(["row_id", "version_set"]).to_pydict()
    return {
        "rows_match_prompts": _rows_match(content, prompts),
        "row_ids_unique": _unique(rows["row_id"]),
        "one_version_set": _one_set(rows["version_set"], content.attributes.get("version_set", "")),
    }


def check_one_list(handoffs: HandoffStore, campaign: Campaign, partition: ContentPartition, home: Path) -> Finding:
    """Whether all shards' newest prompts of the day come from one list: the one that the files now hold. Of a window,
    whether its prompts are those of its events.

    If files change between two shards' runs, some of the day's prompts are lost and others go to two shards.

    Raises:
        InvalidInput: the prompt files are missing or unusable, or there is no such window.
        HandoffCorrupt: the prompts of a shard, or the window's events, are damaged.
    """
    if partition.window is not None:
        return _check_window(handoffs, campaign, partition)
    day = partition.day
    others, num_sealed = [], 0
    for shard, wanted in enumerate(prompts_of_day(campaign, day, home)):
        partition = ContentPartition(day=day, campaign=campaign.name, shard=shard)
        try:
            sealed = handoffs.open("prompts", partition.key)
        except HandoffMissing:
            continue
        num_sealed += 1
        if sealed.content_digest != digest_of(prompts_left(handoffs, partition, wanted)):
            others.append(partition.campaign_shard)
    named = ", ".join(others[:8]) + (" …" if len(others) > 8 else "")
    return Finding(
        passed=not others,
        description=f"{named} of {day} were cut from another list than the prompt files hold now, so the day may lack "
        "some prompts and have others twice. Materialize prompts of all its shards again, then generated_content."
        if others
        else f"{num_sealed} of {campaign.num_shards} shards of {day} are sealed, all cut from one list.",
        figures={"num_shards_sealed": num_sealed, "num_shards_of_another_list": len(others)},
    )


def _check_window(handoffs: HandoffStore, campaign: Campaign, partition: ContentPartition) -> Finding:
    listed = prompts_of_window(campaign, handoffs.objects, sealed_window(handoffs.objects, partition))
    sealed = handoffs.open("prompts", partition.key)
    is_same = sealed.content_digest == digest_of(as_sealed(handoffs, partition, listed.prompts))
    return Finding(
        passed=is_same,
        description=f"The {sealed.num_rows} prompts are those of the window's events, {listed.refused.num_rows} of "
        "which hold none."
        if is_same
        else "The campaign's file now makes other prompts of the window's events: those that were sealed stay, unless "
        "you materialize prompts of this window again, and then generated_content.",
        figures={"num_prompts": sealed.num_rows, "num_events_refused": listed.refused.num_rows},
    )


def _rows_match(content: Handoff, prompts: Handoff) -> Finding:
    asked = prompts.table(["prompt_id", *(name for name in prompts.schema.names if name not in PROMPTS.names)])
    made, wanted = _answered(content), _wanted(asked)
    num_missing, num_surplus = len(set(wanted) - set(made)), len(set(made) - set(wanted))
    carries = num_surplus > 0 or _carries(content, asked, [identity for identity, _ in made])
    return Finding(
        passed=sorted(made) == sorted(wanted) and carries,
        description=f"{len(made)} rows where {asked.num_rows} prompts ask for {len(wanted)}; "
        f"{num_missing} are missing, {num_surplus} were not asked for."
        + ("" if carries else " What the rows carry is not what their prompts carry."),
        figures={"num_rows": len(made), "num_prompts": asked.num_rows},
    )


def _wanted(asked: pa.Table) -> list[tuple[str, int]]:
    """Each row that the prompts ask for: its prompt, and which of the prompt's variations it is."""
    is_varied = NUM_VARIATIONS.name in asked.column_names
    numbers = asked[NUM_VARIATIONS.name].to_pylist() if is_varied else [1] * asked.num_rows
    pairs = zip(asked["prompt_id"].to_pylist(), numbers, strict=True)
    return [(identity, variation) for identity, number in pairs for variation in range(number)]


def _answered(content: Handoff) -> list[tuple[str, int]]:
    """The same of each row that was made."""
    rows = content.table([name for name in ("prompt_id", VARIATION.name) if name in content.schema.names]).to_pydict()
    return list(zip(rows["prompt_id"], rows.get(VARIATION.name, [0] * content.num_rows), strict=True))


def _carries(content: Handoff, asked: pa.Table, prompt_ids: list[str]) -> bool:
    """Whether the rows carry what their prompts carry."""
    fields = carried_fields(asked.schema)
    if not fields or carried_fields(content.schema) != fields:
        return carried_fields(content.schema) == fields
    made = content.table([field.name for field in fields])
    return digest_of(made) == digest_of(carried_rows(asked, prompt_ids))


def _unique(row_ids: list[str]) -> Finding:
    num_repeated = len(row_ids) - len(set(row_ids))
    return Finding(
        passed=num_repeated == 0, description=f"{num_repeated} of {len(row_ids)} rows repeat a row id.",
        figures={"num_rows": len(row_ids), "num_repeated": num_repeated},
    )  # fmt: skip


def _one_set(version_sets: list[str], pinned: str) -> Finding:
    found = sorted(set(version_sets))
    return Finding(
        passed=not found or found == [pinned],
        description=f"Rows are of {', '.join(one[:12] for one in found) or 'no set'}; the claim pinned {pinned[:12]}.",
        figures={"num_version_sets": len(found)},
    )
