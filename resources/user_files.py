"""What is wrong with this deployment's own files, kind by kind: for a check in the UI, a sensor and `make dev`."""

from headrace.errors import InvalidInput
from headrace.generation.campaign import load_campaigns
from headrace.prep.corpus import load_corpus
from headrace.serving.service import load_services
from headrace.training.recipe import load_recipes
from resources.settings import Settings


def file_problems(settings: Settings) -> dict[str, tuple[str, ...]]:
    """Kind of file → what a person has to mend, a text for each broken file."""
    corpus: tuple[str, ...] = ()
    try:
        load_corpus(settings.corpus)
    except InvalidInput as error:
        corpus = (str(error),)
    return {
        "campaign": load_campaigns(settings.campaigns, engine=settings.engine).problems,
        "corpus": corpus,
        "recipe": load_recipes(settings.recipes).problems,
        "service": load_services(settings.services).problems,
    }
