"""This deployment's training: its recipes, its base model, and the place where gangs run."""

from pathlib import Path

import dagster as dg
from pydantic import Field

from headrace.engines.model_directory import local_model_directory, model_directory
from headrace.errors import InvalidInput, InvalidTrainingRun
from headrace.training.recipe import Recipe, load_recipes
from headrace.user_files.directory import Described
from headrace_dagster.training_launcher import TrainingLauncher
from resources.settings import Settings


class TrainingResource(dg.ConfigurableResource):
    """The recipes, by partition key, and their base model unless they name another."""

    recipes_directory: str = Field(description="Directory of recipe files (*.yaml): an absolute path.")
    base_model: str = Field(description="Model directory or hub name for recipes without a base_model of their own.")
    home: str | None = Field(default=None, description="Directory at which a recipe's relative base_model may start.")

    def recipes(self) -> Described[Recipe]:
        """All recipes that can be read, and the files that cannot."""
        return load_recipes(Path(self.recipes_directory))

    def recipe(self, partition_key: str) -> Recipe:
        """Raises: InvalidTrainingRun: no recipe file has this key, or its file is broken."""
        return self.recipes().find(partition_key)

    def base_model_directory(self, recipe: Recipe) -> Path:
        """A local directory; a model of the hub is downloaded first.

        Raises:
            InvalidTrainingRun: neither a directory nor a model on the hub.
        """
        setting = f"base_model of recipe {recipe.name!r}" if recipe.base_model else "HEADRACE_BASE_MODEL"
        try:
            name = recipe.base_model or self.base_model
            # Of recipes alone; others start, as they always did, at the current directory.
            home = Path(self.home) if self.home and recipe.base_model else None
            return model_directory(name, setting=setting, home=home if local_model_directory(name, home) else None)
        except InvalidInput as error:
            raise InvalidTrainingRun(str(error)) from error


def training_resource(settings: Settings) -> TrainingResource:
    return TrainingResource(
        recipes_directory=str(settings.recipes), base_model=settings.base_model, home=str(settings.home)
    )


def training_launcher(settings: Settings) -> TrainingLauncher:
    return TrainingLauncher(
        store_url=settings.store_url,
        cache=str(settings.cache),
        cache_bytes=settings.cache_bytes,
        work_directory=str(settings.home / "training"),
        engine_host=settings.engine_host,
    )
