"""What is wrong with this deployment's own files, kind by kind: for a check in the UI, a sensor and `make dev`."""

from headrace.generation.campaign import load_campaigns
from headrace.prep.corpus import shard_keys_in
from headrace.prep.images.corpus import image_shard_keys_in
from headrace.serving.service import load_services
from headrace.training.recipe import load_recipes
from resources.settings import Settings


def file_problems(settings: Settings) -> dict[str, tuple[str, ...]]:
    """Kind of file → what a person has to mend, a text for each broken file."""
    _, corpus_faults = shard_keys_in(settings.corpus)
    _, images_faults = image_shard_keys_in(settings.images)
    return {
        "campaign": load_campaigns(settings.campaigns, engine=settings.engine).problems,
        "corpus": (corpus_faults,) if corpus_faults else (),
        "images": (images_faults,) if images_faults else (),
        "recipe": load_recipes(settings.recipes).problems,
        "service": load_services(settings.services).problems,
    }
