"""What a campaign's Component calls its jobs: Dagster's names have letters, digits and `_` alone."""

from headrace.command_line.components import identifier


def rollout_job(campaign: str) -> str:
    """The job that begins a campaign's rollout, and takes it further."""
    return f"{identifier(campaign)}_roll_out"


def rows_job(campaign: str) -> str:
    """The job of one shard's day: prompts, rows, review."""
    return f"{identifier(campaign)}_rows"
