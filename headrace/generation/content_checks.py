"""Checks sealed content: rows against their prompts, and prompts against the prompt files."""

import re
from dataclasses import dataclass, field
from pathlib import Path

from headrace.errors import HandoffMissing
from headrace.generation.campaign import Campaign
from headrace.generation.requests import prompt_ids_of_day
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
    prompts = handoffs.open("prompts", partition, _prompts_version(content))
    rows = content.table(["row_id", "prompt_id", "version_set"]).to_pydict()
    wanted = prompts.table(["prompt_id"])["prompt_id"].to_pylist()
    return {
        "rows_match_prompts": _rows_match(rows["prompt_id"], wanted),
        "row_ids_unique": _unique(rows["row_id"]),
        "one_version_set": _one_set(rows["version_set"], content.attributes.get("version_set", "")),
    }


def check_one_list(handoffs: HandoffStore, campaign: Campaign, day: str, home: Path) -> Finding:
    """Whether all shards' newest prompts of the day come from one list: the one that the files now hold.

    If files change between two shards' runs, some of the day's prompts are lost and others go to two shards.

    Raises:
        InvalidInput: the prompt files are missing or unusable.
        HandoffCorrupt: the prompts of a shard are damaged.
    """
    others, num_sealed = [], 0
    for shard, wanted in enumerate(prompt_ids_of_day(campaign, day, home)):
        partition = ContentPartition(day=day, campaign=campaign.name, shard=shard)
        try:
            sealed = handoffs.open("prompts", partition.key)
        except HandoffMissing:
            continue
        num_sealed += 1
        if sealed.table(["prompt_id"])["prompt_id"].to_pylist() != wanted:
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


def _prompts_version(content: Handoff) -> int:
    """The version of the prompts that the rows were made from; a newer one may exist."""
    stated = content.manifest.input_versions.get(f"prompts[{content.partition}]", "")
    if not (match := re.match(r"v(\d+)", stated)):
        raise HandoffMissing(
            f"{content.manifest.label} does not say which version of its prompts it was made from.",
            handoff=content.label,
        )
    return int(match[1])


def _rows_match(made: list[str], wanted: list[str]) -> Finding:
    num_missing, num_surplus = len(set(wanted) - set(made)), len(set(made) - set(wanted))
    return Finding(
        passed=sorted(made) == sorted(wanted),
        description=f"{len(made)} rows for {len(wanted)} prompts; {num_missing} prompts have no row, "
        f"{num_surplus} rows have a prompt that was not asked for.",
        figures={"num_rows": len(made), "num_prompts": len(wanted)},
    )


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
