"""Headrace's definitions: what `dg dev`, `dagster dev` and the daemon load."""

import itertools
import logging
import os

import dagster as dg

from assets import (
    calls,
    deployment,
    deployment_checks,
    duplicates,
    embeddings,
    file_checks,
    generation,
    generation_checks,
    image_checks,
    images,
    mirroring,
    preference,
    preference_checks,
    prep,
    prep_checks,
    training,
)
from assets.partitions import COMPARES_SHARDS, SEMANTIC_DUPLICATES
from pipelines.automation import follow_changed_inputs, with_conditions
from pipelines.jobs import COLLECTION, GENERATION_WITH_MEDIA, JOBS, REGENERATION
from pipelines.schedules import nightly_campaigns, nightly_collection
from pipelines.sensors import SENSORS
from resources.deployment import deployment_resources
from resources.partition_keys import executes_one_run, register_when_loaded
from resources.settings import settings_from_environment
from resources.user_files import file_problems

if not os.environ.get("DAGSTER_HOME"):
    logging.getLogger("dagster").warning(
        "DAGSTER_HOME is not set: this instance is temporary, and what it runs is forgotten when it ends. "
        "`make setup` writes an .env that dg and dagster read from the checkout's directory."
    )

# Whoever starts runs tells of them; a run tells of the files that it reads.
if not executes_one_run():
    for problem in itertools.chain.from_iterable(file_problems(settings_from_environment()).values()):
        logging.getLogger("dagster").warning(problem)

register_when_loaded(settings_from_environment())

_PREP = [prep, *([embeddings] if SEMANTIC_DUPLICATES else []), *([duplicates] if COMPARES_SHARDS else [])]

defs = dg.Definitions(
    assets=with_conditions(
        dg.load_assets_from_modules([*_PREP, images, training, preference, deployment, generation, mirroring, calls])
    ),
    asset_checks=dg.load_asset_checks_from_modules(
        [prep_checks, image_checks, preference_checks, deployment_checks, generation_checks, file_checks]
    ),
    resources=deployment_resources(settings_from_environment()),
    jobs=[*JOBS.values(), GENERATION_WITH_MEDIA, REGENERATION, COLLECTION],
    schedules=[nightly_campaigns, nightly_collection],
    sensors=[follow_changed_inputs, *SENSORS],
    # A run makes one partition of one stage; a process for each step would double its start-up.
    executor=dg.in_process_executor,
)
