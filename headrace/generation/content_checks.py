"""Whether a sealed content partition keeps its promises: its rows against the prompts that they were made from."""

import re
from dataclasses import dataclass, field

from headrace.errors import HandoffMissing
from headrace.handoff.versions import Handoff, HandoffStore


@dataclass(frozen=True, kw_only=True)
class Finding:
    """The result of one check, with its counts."""

    passed: bool
    description: str
    figures: dict[str, int] = field(default_factory=dict)


def check_content(handoffs: HandoffStore, partition: str) -> dict[str, Finding]:
    """Findings on the newest generated_content of a partition, by the name of the check.

    Raises:
        HandoffMissing: the partition is not sealed, or the prompts that it was made from are gone.
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


def _prompts_version(content: Handoff) -> int:
    """The version of the prompts that the rows were made from: by now there may be a newer one."""
    stated = content.manifest.input_versions.get(f"prompts[{content.partition}]", "")
    if not (match := re.match(r"v(\d+)", stated)):
        raise HandoffMissing(f"{content.manifest.label} does not say which version of its prompts it was made from.")
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
