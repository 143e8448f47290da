"""Whether what is sealed still follows from what it was made of. Reads manifests and a file's time, never a row.

`headrace run` makes again what does not; `headrace status` says so. Prompt files are not read here: who changed one
sees it in `headrace run --dry-run`.
"""

from collections.abc import Iterable
from pathlib import Path

from headrace.clock import epoch_seconds
from headrace.handoff.manifest import Manifest
from headrace.rollout.states import RolloutState


def is_made_from(made: Manifest | None, read: Manifest | None) -> bool:
    """Whether `made` was made from content equal to `read`, under whichever version number; False: one is missing."""
    if made is None or read is None:
        return False
    return read.content_digest in made.input_versions.get(f"{read.asset}[{read.partition}]", "")


def is_rolled_back(content: Manifest, state: RolloutState | None) -> bool:
    return state is not None and content.attributes.get("version_set") in state.aborted


def is_of_older_set(content: Manifest, state: RolloutState | None) -> bool:
    """Whether a run today would use another version set; rows of a set on trial, or about to be, are not old."""
    if state is None or is_rolled_back(content, state):
        return False
    return content.attributes.get("version_set") not in {state.stable, state.candidate, state.proposed}


def is_report_older(report: Path, rows: Iterable[Manifest]) -> bool:
    """Whether rows were sealed after the day's page was written; by the clocks of the machines that did so."""
    try:
        # Manifests have whole seconds: a page of the same second shows the rows that were sealed before it.
        written = int(report.stat().st_mtime)
    except FileNotFoundError:
        return False
    return any(epoch_seconds(each.created_at) > written for each in rows)
