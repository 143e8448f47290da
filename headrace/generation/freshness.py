"""Whether what is sealed still follows from what it was made of. Reads manifests and the day's page, never a row.

`headrace run` makes again what does not; `headrace status` says so. Prompt files are not read here: who changed one
sees it in `headrace run --dry-run`.
"""

from collections.abc import Iterable
from pathlib import Path

from headrace.handoff.manifest import Manifest
from headrace.handoff.manifests import states_read
from headrace.keys import digest_text
from headrace.rollout.states import RolloutState

_MARK = "<!-- shows "
# Of the page's end: of 40,000 partitions a day.
_MARK_BYTES_MAX = 2**20


def is_made_from(made: Manifest | None, read: Manifest | None) -> bool:
    """Whether `made` was made from content equal to `read`, under whichever version number; False: one is missing."""
    if made is None or read is None:
        return False
    return states_read(made.input_versions.get(f"{read.asset}[{read.partition}]", ""), read.content_digest)


def is_rolled_back(content: Manifest, state: RolloutState | None) -> bool:
    return state is not None and content.attributes.get("version_set") in state.aborted


def is_of_older_set(content: Manifest, state: RolloutState | None) -> bool:
    """Whether a run today would use another version set; rows of a set on trial, or about to be, are not old."""
    if state is None or is_rolled_back(content, state):
        return False
    return content.attributes.get("version_set") not in {state.stable, state.candidate, state.proposed}


def shown_mark(rows: Iterable[Manifest]) -> str:
    """What a day's page says at its end, to programs: the content of which partitions it shows."""
    return f"\n{_MARK}{' '.join(sorted(map(_sign, rows)))} -->\n"


def is_report_older(report: Path, rows: Iterable[Manifest]) -> bool:
    """Whether the day's page does not show some of these. Its time tells nothing: it may have read before them."""
    try:
        with report.open("rb") as page:
            page.seek(max(0, report.stat().st_size - _MARK_BYTES_MAX))
            end = page.read().decode(errors="replace")
    except FileNotFoundError:
        return False
    shown = set(end.rpartition(_MARK)[2].partition(" -->")[0].split()) if _MARK in end else set[str]()
    return not {_sign(each) for each in rows} <= shown


def _sign(rows: Manifest) -> str:
    return digest_text("shown", rows.asset, rows.partition, rows.content_digest)[:12]
