"""One job for each step of a stage: what is launched together, on one partition, in one run."""

from collections.abc import Sequence
from dataclasses import dataclass

import dagster as dg

from assets.partitions import COMPARES_SHARDS, SEMANTIC_DUPLICATES
from headrace.placement.demand import STAGE
from headrace_dagster.assets.generation import MEDIA_ASSETS
from headrace_dagster.collection import collection_job
from resources.settings import TRACKING_URI, settings_from_environment


@dataclass(frozen=True, kw_only=True)
class StageJob:
    name: str
    stage: str
    assets: tuple[str, ...]


_READ, _MADE = ("raw_documents", "quarantine", "labels"), ("clean_documents", "training_examples")
# Where shards are compared with each other: up to what is compared, the comparison, and what follows.
_COMPARED = (
    StageJob(name="compare_bucket", stage="data_prep", assets=("duplicate_buckets",)),
    StageJob(name="find_duplicates", stage="data_prep", assets=("duplicates",)),
    StageJob(name="make_examples", stage="data_prep", assets=_MADE),
)
_SIGNED = ("document_signatures",)
# Alone in its run: it may hold a GPU, and what is before and after it needs none.
_EMBED = StageJob(name="embed_documents", stage="data_prep", assets=("document_embeddings",))


def _prepare(assets: tuple[str, ...]) -> StageJob:
    return StageJob(name="prepare", stage="data_prep", assets=assets)


def _data_prep() -> tuple[StageJob, ...]:
    if SEMANTIC_DUPLICATES is None:
        return (_prepare(_READ + _SIGNED), *_COMPARED) if COMPARES_SHARDS else (_prepare(_READ + _MADE),)
    if not COMPARES_SHARDS:
        return _prepare(_READ), _EMBED, StageJob(name="make_examples", stage="data_prep", assets=_MADE)
    return _prepare(_READ), _EMBED, StageJob(name="sign_documents", stage="data_prep", assets=_SIGNED), *_COMPARED


STAGE_JOBS = (
    *_data_prep(),
    StageJob(name="read_images", stage="images", assets=("image_quarantine", "raw_images", "image_signatures")),
    StageJob(name="judge_images", stage="images", assets=("image_verdicts",)),
    StageJob(name="pack_images", stage="images", assets=("clean_images",)),
    # Alone in its run: it may hold a GPU, for the model that reads captions.
    StageJob(name="make_picture_examples", stage="images", assets=("picture_examples",)),
    StageJob(name="seal_base", stage="training", assets=("base_model",)),
    StageJob(name="pair_rows", stage="training", assets=("preference_pairs",)),
    # Alone in its run: then the gang of ranks is the run's whole demand, and no CPU follower holds its GPUs.
    StageJob(name="train", stage="training", assets=("trained_model",)),
    StageJob(name="evaluate", stage="training", assets=("evaluation",)),
    StageJob(name="register", stage="deployment", assets=("registered_version",)),
    StageJob(name="roll_out", stage="deployment", assets=("rollout",)),
    StageJob(name="list_prompts", stage="generation", assets=("prompts",)),
    # Alone in its run, for the same reason as training.
    StageJob(name="generate", stage="generation", assets=("generated_content",)),
    StageJob(name="paint", stage="generation", assets=("generated_images",)),
    StageJob(name="speak", stage="generation", assets=("generated_speech",)),
    StageJob(name="mirror", stage="generation", assets=("mirrored_content",)),
    StageJob(name="seal_calls", stage="generation", assets=("recorded_calls",)),
    StageJob(name="mirror_calls", stage="generation", assets=("mirrored_calls",)),
    StageJob(name="list_rolled_back", stage="generation", assets=("rolled_back_rows",)),
    StageJob(name="review", stage="generation", assets=("reviewed_content", "clips")),
    StageJob(name="report", stage="generation", assets=("campaign_report",)),
)

# Makes what `generate` makes, but only where a rolled-back version set made it.
REGENERATE = StageJob(name="regenerate_rolled_back", stage="generation", assets=("generated_content", *MEDIA_ASSETS))

# A campaign's pictures and recordings with their texts, in one run and one process: loading costs more than the work of
# a small model. Where they do not fit on one GPU, `generate`, `paint` and `speak` make the same in runs of their own.
WITH_MEDIA = StageJob(name="generate_with_media", stage="generation", assets=("generated_content", *MEDIA_ASSETS))

ASSETS_OF_JOB = {job.name: job.assets for job in (REGENERATE, WITH_MEDIA, *STAGE_JOBS)}
STAGE_OF_JOB = {job.name: job.stage for job in (REGENERATE, WITH_MEDIA, *STAGE_JOBS)}

# These check every existing partition, which is too much for each run that makes one.
_OF_ALL_PARTITIONS = dg.AssetSelection.checks(
    *(
        dg.AssetCheckKey(dg.AssetKey(asset), "no_rows_of_rolled_back_sets")
        for asset in ("generated_content", "reviewed_content")
    )
)


_TEXTS = dg.AssetSelection.assets("generated_content")
# The last part of a row seals its text, too: only then there is something of it to examine.
_SEALS_TEXTS = ("paint", "speak")


def _selection(job: StageJob) -> dg.AssetSelection:
    assets = dg.AssetSelection.assets(*job.assets)
    if job.name in _SEALS_TEXTS:
        assets |= _TEXTS - _TEXTS.without_checks()
    return assets | _OF_ALL_PARTITIONS if job.name == "list_rolled_back" else assets - _OF_ALL_PARTITIONS


JOBS = {
    job.name: dg.define_asset_job(
        job.name,
        selection=_selection(job),
        tags={STAGE: job.stage},
        description=f"{', '.join(job.assets)}: one run a partition.",
    )
    for job in STAGE_JOBS
}

REGENERATION = dg.define_asset_job(
    REGENERATE.name,
    selection=_selection(REGENERATE),
    tags={STAGE: REGENERATE.stage},
    config=dg.RunConfig(ops={"generated_content": {"config": {"regenerate": "rolled_back"}}}),
    description="generated_content, where its rows are of a version set that was rolled back: launched on any number "
    "of partitions, it makes those again, and returns the others as they are.",
)


GENERATION_WITH_MEDIA = dg.define_asset_job(
    WITH_MEDIA.name,
    selection=_selection(WITH_MEDIA),
    tags={STAGE: WITH_MEDIA.stage},
    description="generated_content with its pictures and recordings, of campaigns that make any: one run a partition.",
)


def _services() -> dict[str, str]:
    return {TRACKING_URI: settings_from_environment().tracking_uri}


# Makes no asset: it frees the store of what is no longer needed.
COLLECTION = collection_job(environment=_services)


def run_assets(run: dg.DagsterRun) -> list[str]:
    """The assets that a run makes."""
    return assets_made(run.job_name, sorted(key.to_user_string() for key in run.asset_selection or ()))


def assets_made(job_name: str, selected: Sequence[str]) -> list[str]:
    # A run of a whole job has no asset selection.
    return list(selected or ASSETS_OF_JOB.get(job_name, ()))
