"""What a training of one recipe asks of the fleet: a GPU a rank with room for it, or this much of a host's memory."""

import os
from collections.abc import Mapping
from pathlib import Path

from headrace.command_line.project import find_project
from headrace.engines.model_directory import local_model_directory
from headrace.errors import InvalidTrainingRun
from headrace.store.local import LocalStore
from headrace.training.devices import Devices
from headrace.training.recipe import SFT, load_recipes
from headrace.training.recipe_needs import demand_tags, needs_of


def demand_of_recipe(partition: str, has_gpus: bool) -> Mapping[str, str]:
    """The tags that a run of `trained_model` lacks. Reads the recipe, config.json and headers of files.

    Raises:
        InvalidTrainingRun: there is no such recipe, its base model is not on this machine, or it paints pictures.
    """
    settings = find_project(Path.cwd(), os.environ).settings()
    recipe = load_recipes(settings.recipes).find(partition)
    name = recipe.base_model or settings.base_model
    directory = local_model_directory(name, settings.home) or local_model_directory(name, Path.cwd())
    if recipe.objective != SFT or directory is None:
        raise InvalidTrainingRun(f"what recipe {partition} needs cannot be told before its base model {name} is here")
    # A recipe without `ranks` gets one GPU, and without GPUs as many ranks as any CPU.
    devices = Devices(num_gpus=recipe.ranks or 1, memory_mib=None) if has_gpus else Devices(num_gpus=0, memory_mib=None)
    objects = settings.open_store()
    is_there = not isinstance(objects, LocalStore) or objects.directory.is_dir()
    needed = needs_of(recipe, directory, objects if is_there else None, devices, corpus=settings.corpus)
    return demand_tags(needed.estimate, num_ranks=needed.num_ranks, has_gpus=has_gpus)
