"""One job a stage step: what is launched together, on one partition, in one run."""

from dataclasses import dataclass

import dagster as dg

from headrace.placement.demand import STAGE
from headrace_dagster.collection import collection_job


@dataclass(frozen=True, kw_only=True)
class StageJob:
    name: str
    stage: str
    assets: tuple[str, ...]


STAGE_JOBS = (
    StageJob(
        name="prepare",
        stage="data_prep",
        assets=("raw_documents", "quarantine", "clean_documents", "labels", "training_examples"),
    ),
    StageJob(name="seal_base", stage="training", assets=("base_model",)),
    # Alone in its run: the gang of ranks is then the run's whole demand, and no CPU follower holds its GPUs.
    StageJob(name="train", stage="training", assets=("trained_model",)),
    StageJob(name="evaluate", stage="training", assets=("evaluation",)),
    StageJob(name="register", stage="deployment", assets=("registered_version",)),
    StageJob(name="roll_out", stage="deployment", assets=("rollout",)),
    StageJob(name="list_prompts", stage="generation", assets=("prompts",)),
    # Alone in its run, for the same reason as training.
    StageJob(name="generate", stage="generation", assets=("generated_content",)),
    StageJob(name="review", stage="generation", assets=("reviewed_content", "cards")),
    StageJob(name="report", stage="generation", assets=("campaign_report",)),
)

ASSETS_OF_JOB = {job.name: job.assets for job in STAGE_JOBS}
STAGE_OF_JOB = {job.name: job.stage for job in STAGE_JOBS}

JOBS = {
    job.name: dg.define_asset_job(
        job.name,
        selection=dg.AssetSelection.assets(*job.assets),
        tags={STAGE: job.stage},
        description=f"{', '.join(job.assets)}: one run a partition.",
    )
    for job in STAGE_JOBS
}

# Makes no asset: it frees the store of versions that nobody needs.
COLLECTION = collection_job()


def run_assets(run: dg.DagsterRun) -> list[str]:
    """What a run makes."""
    # A job launched whole carries no asset selection in its run.
    selected = sorted(key.to_user_string() for key in run.asset_selection or ())
    return selected or list(ASSETS_OF_JOB.get(run.job_name, ()))
