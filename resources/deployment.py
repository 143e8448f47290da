"""The resources of one deployment, under the names that assets use."""

from typing import Any

import dagster as dg

from headrace_dagster.handoff_io import ArrowHandoffIOManager, StoreResource
from resources.campaigns_resource import campaigns_resource
from resources.corpus_resource import CorpusResource
from resources.engines import engines_resource
from resources.registry import registry_resource
from resources.rollouts import rollouts_resource
from resources.settings import Settings
from resources.training import training_launcher, training_resource


def deployment_resources(settings: Settings) -> dict[str, dg.ConfigurableResource | dg.ConfigurableIOManager]:
    """A laptop, one box and a cluster differ only in `settings`."""
    store: dict[str, Any] = {
        "url": settings.store_url,
        "cache": str(settings.cache),
        "cache_bytes": settings.cache_bytes,
    }
    engines = engines_resource()
    return {
        "io_manager": ArrowHandoffIOManager(**store),
        "store": StoreResource(**store),
        "corpus": CorpusResource(
            corpus_file=str(settings.corpus), home=str(settings.home), base_model=settings.base_model
        ),
        "training": training_resource(settings),
        "launcher": training_launcher(settings),
        "registry": registry_resource(settings),
        "campaigns": campaigns_resource(settings),
        "engines": engines,
        "rollouts": rollouts_resource(settings, engines),
    }
