"""The resources of one deployment, under the names that assets use."""

import os

from headrace_dagster.resources.campaigns import campaigns_resource
from headrace_dagster.resources.deployment import Resources, campaign_resources
from resources.corpus_resource import CorpusResource
from resources.images_resource import ImagesResource
from resources.settings import Settings
from resources.training import training_launcher, training_resource


def deployment_resources(settings: Settings) -> Resources:
    """A laptop, one box and a cluster differ only in `settings`."""
    return {
        **campaign_resources(settings, campaigns_resource(settings), environment=os.environ),
        "corpus": CorpusResource(
            corpus_file=str(settings.corpus), home=str(settings.home), base_model=settings.base_model
        ),
        "images": ImagesResource(images_file=str(settings.images), home=str(settings.home)),
        "training": training_resource(settings),
        "launcher": training_launcher(settings),
    }
