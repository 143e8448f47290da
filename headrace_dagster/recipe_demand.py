"""What a training of one recipe asks of the fleet: a GPU a rank with room for it, or this much of a host's memory."""

import os
from collections.abc import Mapping
from pathlib import Path

from headrace.command_line.project import find_project
from headrace.engines.model_directory import local_model_directory
from headrace.errors import InvalidTrainingRun
from headrace.handoff.versions import HandoffStore
from headrace.store.local import LocalStore
from headrace.store.objects import ObjectStore
from headrace.training.devices import Devices
from headrace.training.recipe import FLOW_MATCHING, load_recipes
from headrace.training.recipe_needs import demand_tags, needs_of, painter_needs, weights_here
from headrace.training.sealed_examples import sealed_pictures


def demand_of_recipe(partition: str, has_gpus: bool) -> Mapping[str, str]:
    """The tags that a run of `trained_model` lacks. Reads the recipe, config.json and headers of files.

    Raises:
        InvalidTrainingRun: there is no such recipe, or its base model or its pictures are not here.
    """
    settings = find_project(Path.cwd(), os.environ).settings()
    recipe = load_recipes(settings.recipes).find(partition)
    # A recipe without `ranks` gets one GPU, and without GPUs as many ranks as any CPU.
    devices = Devices(num_gpus=recipe.ranks or 1, memory_mib=None) if has_gpus else Devices(num_gpus=0, memory_mib=None)
    store = settings.open_store()
    objects = None if isinstance(store, LocalStore) and not store.directory.is_dir() else store
    if recipe.objective == FLOW_MATCHING:
        pictures = sealed_pictures(objects) if objects is not None else None
        if pictures is None:
            raise InvalidTrainingRun(f"what recipe {partition} needs follows from its pictures, and none are sealed")
        needed = painter_needs(recipe, pictures, devices)
    else:
        name = recipe.base_recipe or recipe.base_model or settings.base_model
        if recipe.base_recipe:
            directory = _trained_by(recipe.base_recipe, objects)
        else:
            directory = local_model_directory(name, settings.home) or local_model_directory(name, Path.cwd())
        if directory is None:
            raise InvalidTrainingRun(
                f"what recipe {partition} needs follows from its base model, and {name} is not here"
            )
        needed = needs_of(recipe, directory, objects, devices, corpus=settings.corpus)
    return demand_tags(needed.estimate, num_ranks=needed.num_ranks, has_gpus=has_gpus)


def _trained_by(recipe: str, objects: ObjectStore | None) -> Path | None:
    """The weights that a recipe trained last, where they lie on this machine: who queues a run fetches no weights."""
    if not isinstance(objects, LocalStore):
        return None
    trained = HandoffStore(objects).newest("trained_model", recipe)
    if trained is None:
        return None
    return weights_here(objects, trained.table(["weights_digest"])["weights_digest"][0].as_py())
