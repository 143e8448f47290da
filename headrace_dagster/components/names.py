"""What a campaign's Component calls its jobs: Dagster's names have letters, digits and `_` alone."""

from headrace.command_line.components import identifier
from headrace.version_sets.media_settings import MemberKind

_VERBS: dict[MemberKind, str] = {"text": "generate", "image": "paint", "speech": "speak"}


def rollout_job(campaign: str) -> str:
    """The job that begins a campaign's rollout, and takes it further."""
    return f"{identifier(campaign)}_roll_out"


def rows_job(campaign: str) -> str:
    """The job of one shard's day: prompts, rows, review."""
    return f"{identifier(campaign)}_rows"


def step_job(campaign: str, kind: MemberKind) -> str:
    """The job of one kind of a day's parts, texts with their prompts; where the file wants its steps apart."""
    return f"{identifier(campaign)}_{_VERBS[kind]}"


def review_job(campaign: str) -> str:
    """The job that reviews what those made, and makes films of it."""
    return f"{identifier(campaign)}_review"
