"""Checks of users' own files: a kind's check fails while one of its files is broken, and names it with its faults.

A broken file stops its own campaign, recipe, service or corpus alone: without a check nobody would see it before that
subject's next run. The sensor `partition_keys` reports the same findings without a run, as soon as a file changes.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import dagster as dg

from headrace.text.markdown import inline
from headrace_dagster.assets.stages import asset_check
from headrace_dagster.resources.campaigns import CampaignsResource
from headrace_dagster.resources.rollouts import RolloutsResource
from resources.corpus_resource import CorpusResource
from resources.images_resource import ImagesResource
from resources.training import TrainingResource

# Kind of file → the first asset that reads it.
_READERS = {
    "campaign": "prompts",
    "corpus": "raw_documents",
    "images": "raw_images",
    "recipe": "base_model",
    "service": "rollout",
}


def file_findings(problems: Mapping[str, Sequence[str]]) -> list[dg.AssetCheckEvaluation]:
    """The checks' results as events that belong to no run.

    Args: problems: by kind of file, as `resources.user_files.file_problems` gives them.
    """
    return [
        dg.AssetCheckEvaluation(
            asset_key=dg.AssetKey(asset), check_name=_name(kind), passed=not problems[kind], **_said(problems[kind])
        )
        for kind, asset in _READERS.items()
    ]


def _described(kind: str) -> dict[str, str]:
    return {
        "asset": _READERS[kind],
        "name": _name(kind),
        "description": f"Every {kind} file of this project can be read; a broken one stops its own {kind} alone.",
    }


def _name(kind: str) -> str:
    return f"{kind}_files_can_be_read"


def _said(problems: Sequence[str]) -> dict[str, Any]:
    """As text beside the description: Markdown would put all faults of a file on one line."""
    return {
        "description": inline("; ".join(problem.partition("\n")[0] for problem in problems)) or None,
        "metadata": {
            "num_broken": len(problems),
            **{f"file_{number}": dg.MetadataValue.text(problem) for number, problem in enumerate(problems, 1)},
        },
    }


def _result(problems: Sequence[str]) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(passed=not problems, **_said(problems))


@asset_check(**_described("campaign"))
def campaign_files_can_be_read(campaigns: CampaignsResource) -> dg.AssetCheckResult:
    return _result(campaigns.campaigns().problems)


@asset_check(**_described("corpus"))
def corpus_files_can_be_read(corpus: CorpusResource) -> dg.AssetCheckResult:
    return _result(corpus.problems())


@asset_check(**_described("images"))
def images_files_can_be_read(images: ImagesResource) -> dg.AssetCheckResult:
    return _result(images.problems())


@asset_check(**_described("recipe"))
def recipe_files_can_be_read(training: TrainingResource) -> dg.AssetCheckResult:
    return _result(training.recipes().problems)


@asset_check(**_described("service"))
def service_files_can_be_read(rollouts: RolloutsResource) -> dg.AssetCheckResult:
    return _result(rollouts.served().problems)


file_checks = [
    campaign_files_can_be_read,
    corpus_files_can_be_read,
    images_files_can_be_read,
    recipe_files_can_be_read,
    service_files_can_be_read,
]
