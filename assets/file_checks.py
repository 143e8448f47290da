"""Checks of users' own files: a kind's check fails while one of its files is broken, and names it with its faults.

A broken file stops its own campaign, recipe, service or corpus alone: without a check nobody would see it before that
subject's next run. The sensor `partition_keys` reports the same findings without a run, as soon as a file changes.
"""

from collections.abc import Mapping, Sequence

import dagster as dg

from assets.stages import asset_check
from headrace.text.markdown import inline
from resources.settings import settings_from_environment
from resources.user_files import file_problems

# Kind of file → the first asset that reads it.
_READERS = {"campaign": "prompts", "corpus": "raw_documents", "recipe": "base_model", "service": "rollout"}


def file_findings(problems: Mapping[str, Sequence[str]]) -> list[dg.AssetCheckEvaluation]:
    """The checks' results as events that belong to no run.

    Args: problems: as `file_problems` gives them.
    """
    return [
        dg.AssetCheckEvaluation(
            asset_key=dg.AssetKey(asset), check_name=_name(kind), passed=not problems[kind], **_said(problems[kind])
        )
        for kind, asset in _READERS.items()
    ]


def _file_check(kind: str, asset: str) -> dg.AssetChecksDefinition:
    @asset_check(
        asset=asset,
        name=_name(kind),
        description=f"Every {kind} file of this project can be read; a broken one stops its own {kind} alone.",
    )
    def check() -> dg.AssetCheckResult:
        found = file_problems(settings_from_environment())[kind]
        return dg.AssetCheckResult(passed=not found, **_said(found))

    return check


def _name(kind: str) -> str:
    return f"{kind}_files_can_be_read"


def _said(problems: Sequence[str]) -> dict[str, object]:
    """As text beside the description: Markdown would put all faults of a file on one line."""
    return {
        "description": inline("; ".join(problem.partition("\n")[0] for problem in problems)) or None,
        "metadata": {
            "num_broken": len(problems),
            **{f"file_{number}": dg.MetadataValue.text(problem) for number, problem in enumerate(problems, 1)},
        },
    }


file_checks = [_file_check(kind, asset) for kind, asset in _READERS.items()]
