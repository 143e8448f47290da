"""The resources that a campaign's assets ask for, under the names by which a site finds them."""

from collections.abc import Mapping
from typing import Any, TypeAlias

import dagster as dg

from headrace.settings import Settings
from headrace_dagster.handoff_io import ArrowHandoffIOManager, StoreResource
from headrace_dagster.resources.campaigns import CampaignsResource
from headrace_dagster.resources.engines import engines_resource
from headrace_dagster.resources.registry import registry_resource
from headrace_dagster.resources.rollouts import rollouts_resource

Resources: TypeAlias = dict[str, dg.ConfigurableResource | dg.ConfigurableIOManager]


def campaign_resources(
    settings: Settings, campaigns: CampaignsResource, *, environment: Mapping[str, str]
) -> Resources:
    """Args: environment: says whether there is a key for engines that are servers."""
    store: dict[str, Any] = {
        "url": settings.store_url,
        "cache": str(settings.cache),
        "cache_bytes": settings.cache_bytes,
    }
    engines = engines_resource(environment, settings.engine_host)
    return {
        "io_manager": ArrowHandoffIOManager(**store),
        "store": StoreResource(**store),
        "registry": registry_resource(settings),
        "campaigns": campaigns,
        "engines": engines,
        "rollouts": rollouts_resource(settings, campaigns, engines),
    }
