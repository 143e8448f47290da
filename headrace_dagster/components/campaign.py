"""A campaign as a Dagster Component: the assets from prompts to reviewed content, its report and its rollout.

Its file lies beside defs.yaml and is any campaign's; so what it says of shards and days is as old as the code location.
State lies where `headrace` looks for it from the project's directory, so that commands and runs see one store.
"""

import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import dagster as dg
from pydantic import Field

from headrace.command_line.components import (
    CAMPAIGN_FILE,
    DEFS_FILE,
    VARIABLES,
    check_names,
    components_of,
    identifier,
    settings_with,
)
from headrace.command_line.project import find_project
from headrace.generation.campaign import Campaign as CampaignFile
from headrace.generation.campaign import load_campaign
from headrace.generation.requests import refuse_events
from headrace.settings import Settings
from headrace.version_sets.media_settings import MemberKind
from headrace_dagster.assets.asset_site import Site
from headrace_dagster.assets.generation import MEDIA_ASSETS, generation_assets
from headrace_dagster.assets.generation_checks import GenerationChecks, generation_checks
from headrace_dagster.assets.rollout import rollout_asset
from headrace_dagster.assets.rollout_checks import rollout_checks
from headrace_dagster.components.names import review_job, rollout_job, rows_job, step_job
from headrace_dagster.components.scaffolding import CampaignScaffolder
from headrace_dagster.resources.campaigns import CampaignsResource
from headrace_dagster.resources.deployment import Resources, campaign_resources


@dg.scaffold_with(CampaignScaffolder)
class Campaign(dg.Component, dg.Model, dg.Resolvable):
    """One campaign: prompts, generated and reviewed content by day and shard, a report a day, a rollout.

    The assets' keys begin with the campaign's name.
    """

    campaign: str = Field(default=CAMPAIGN_FILE, description="The campaign file, beside this file.")
    first_day: str | None = Field(
        default=None, description="First day of its partitions, as YYYY-MM-DD; null: HEADRACE_FIRST_DAY."
    )
    timezone: str | None = Field(
        default=None, description="Where its days begin, such as Europe/Berlin; null: HEADRACE_TIMEZONE."
    )

    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:
        """Raises: InvalidInput: the campaign file or an attribute is broken, with all faults and their places."""
        directory = context.path if context.path.is_dir() else context.path.parent
        file = directory / self.campaign
        project = find_project(context.project_root, os.environ)
        stated = {name: value for name in VARIABLES if (value := getattr(self, name)) is not None}
        settings = settings_with(project, directory / DEFS_FILE, stated)
        campaign = load_campaign(file).with_engine(settings.engine)
        refuse_events(campaign, "needs the sensor `sealed_windows`, which comes with no Component")
        check_names(campaign.name, file, components_of(project))
        resources = campaign_resources(settings, _files(campaign, file, settings), environment=project.environment)
        with warnings.catch_warnings():
            # Of partitions of checks and of a day's mapping, which Dagster may still change: no matter of this project.
            warnings.simplefilter("ignore", dg.BetaWarning)
            warnings.simplefilter("ignore", dg.PreviewWarning)
            return _definitions(campaign, _site(campaign, settings), resources)


def _definitions(campaign: CampaignFile, site: Site, resources: Resources) -> dg.Definitions:
    name = campaign.name
    rollout, checks = rollout_asset(site), generation_checks(site)
    assets, checks_of_rollout = generation_assets(site), tuple(rollout_checks(site).values())
    # Those of what the campaign does not make say so, and cost nothing.
    rows = [assets[name] for name in ("prompts", "generated_content", *MEDIA_ASSETS, "reviewed_content", "clips")]
    return dg.Definitions(
        assets=[rollout, *assets.values()],
        asset_checks=[*checks.of_a_partition, *checks.of_all_partitions, *checks_of_rollout],
        jobs=[
            _job(rollout_job(name), [rollout], checks_of_rollout, "The rollout, as far as it can go now."),
            _job(rows_job(name), rows, checks.of_a_partition, "One shard's day, from prompts to reviewed rows."),
            *(_jobs_apart(campaign, assets, checks) if campaign.apart is not None else ()),
        ],
        resources={site.resource_key(name): resource for name, resource in resources.items()},
    )


def _jobs_apart(
    campaign: CampaignFile, assets: Mapping[str, dg.AssetsDefinition], checks: GenerationChecks
) -> Iterator[Any]:
    """A job for each step, with what its runs ask for, and one for the review of what they made."""
    made: dict[MemberKind, tuple[str, ...]] = {
        "text": ("prompts", "generated_content"),
        "image": ("generated_images",),
        "speech": ("generated_speech",),
    }
    kinds = {"text", *(campaign.parts[role].kind for role in campaign.makers)}
    for kind, names in made.items():
        if kind in kinds:
            # Whichever run makes the last part seals the texts, too.
            examined = _checks_of(checks, assets, {*names, "generated_content"})
            told = f"One shard's day: {' and '.join(names)}."
            tags = campaign.tags_apart(kind)
            yield _job(step_job(campaign.name, kind), [assets[one] for one in names], examined, told, tags=tags)
    reviewed = ("reviewed_content", "clips")
    told = "One shard's day: the review of rows whose parts are all made, and films."
    examined = _checks_of(checks, assets, {*reviewed})
    yield _job(review_job(campaign.name), [assets[one] for one in reviewed], examined, told)


def _checks_of(
    checks: GenerationChecks, assets: Mapping[str, dg.AssetsDefinition], names: set[str]
) -> list[dg.AssetChecksDefinition]:
    keys = {assets[one].key for one in names}
    return [one for one in checks.of_a_partition if keys & {key.asset_key for key in one.check_keys}]


def _site(campaign: CampaignFile, settings: Settings) -> Site:
    # Days end today: tonight's run makes today's partition, not yesterday's.
    days = dg.DailyPartitionsDefinition(start_date=settings.first_day, timezone=settings.timezone, end_offset=1)
    return Site(
        content=dg.MultiPartitionsDefinition(
            {"day": days, "shard": dg.StaticPartitionsDefinition(campaign.shard_keys)}
        ),
        days=days,
        campaign=campaign.name,
        key_prefix=(campaign.name,),
        resource_prefix=f"headrace_{identifier(campaign.name)}_",
        group=identifier(campaign.name),
        rollout_job=rollout_job(campaign.name),
    )


def _job(
    name: str,
    assets: Sequence[dg.AssetsDefinition],
    checks: Sequence[dg.AssetChecksDefinition],
    holds: str,
    *,
    tags: Mapping[str, str] | None = None,
) -> Any:
    """One process: starting one for each step costs more than these steps do."""
    selection = dg.AssetSelection.assets(*assets).without_checks() | dg.AssetSelection.checks(*checks)
    return dg.define_asset_job(
        name, selection=selection, executor_def=dg.in_process_executor, tags=tags, description=holds
    )


def _files(campaign: CampaignFile, file: Path, settings: Settings) -> CampaignsResource:
    return CampaignsResource(
        directory=str(file.parent),
        file=file.name,
        home=str(settings.home),
        # Several campaigns of a project would else write one page a day.
        reports=str(settings.home / "reports" / campaign.name),
        engine=settings.engine,
    )
