"""A rollout's state and journal as tables: the asset's output, and text for people in the UI."""

from collections.abc import Sequence

import pyarrow as pa

from headrace.clock import iso
from headrace.rollout.journal import Entry
from headrace.rollout.states import RolloutState
from headrace.text import markdown
from headrace.version_sets.sets import VersionSets

# Cuts long reasons, so that other entries fit.
_CELL_CHARS = 300

# One row for each member of each set in use.
ROLLOUT = pa.schema(
    [
        pa.field("rollout", pa.string(), nullable=False),
        pa.field("standing", pa.string(), nullable=False),  # "stable" | "candidate"
        pa.field("version_set", pa.string(), nullable=False),
        pa.field("role", pa.string(), nullable=False),
        pa.field("model_name", pa.string(), nullable=False),
        pa.field("model_version", pa.string(), nullable=False),
        pa.field("weights_digest", pa.string(), nullable=False),
        pa.field("weight", pa.float64(), nullable=False),
        pa.field("step", pa.int32(), nullable=False),
        pa.field("head", pa.int64(), nullable=False),
    ]
)


def state_table(name: str, state: RolloutState | None, version_sets: VersionSets) -> pa.Table:
    """The sets in use after the journal's head; no rows before the rollout is initialized."""
    rows = []
    if state is not None:
        standings = [("stable", state.stable, 1 - state.weight), ("candidate", state.candidate, state.weight)]
        rows = [
            {
                "rollout": name,
                "standing": standing,
                "version_set": version_set,
                "role": member.role,
                "model_name": member.model_name,
                "model_version": member.model_version,
                "weights_digest": member.weights_digest,
                "weight": weight,
                "step": state.step,
                "head": state.head,
            }
            for standing, version_set, weight in standings
            if version_set
            for member in version_sets.get(version_set).members
        ]
    return pa.Table.from_pylist(rows, schema=ROLLOUT)


def journal_markdown(entries: Sequence[Entry]) -> str:
    """As many of the newest entries as fit, oldest first, as a Markdown table."""
    rows = [
        [
            str(entry.number),
            iso(entry.at)[5:16],
            entry.event,
            str(entry.fields.get("version_set", ""))[:8],
            str(entry.fields.get("reason", "")),
        ]
        for entry in entries
    ]
    return markdown.fitting_table(
        ["#", "time", "event", "set", "reason"], rows, cell_chars_max=_CELL_CHARS, newest_last=True
    )
