"""What a queued training asks for follows from the model that it starts from."""

from pathlib import Path

import pytest

from headrace.handoff.versions import HandoffStore
from headrace.placement.demand import MEMORY_MIB
from headrace.store.local import LocalStore
from headrace.store.sealed_directory import seal_directory
from headrace.training.tables import base_model_table
from headrace_dagster.recipe_demand import demand_of_recipe
from simulation.tiny_model import build_tiny_model
from tests.command_line.checked_project import RECIPE, Project


@pytest.fixture
def project(tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    made = Project(tmp_path, tiny_model)
    monkeypatch.chdir(tmp_path)
    return made


def test_the_weights_of_the_base_recipe_count_and_not_the_projects_base(project: Project, tmp_path: Path) -> None:
    plain = demand_of_recipe("tiny.define", False)
    store = LocalStore(project.root / ".headrace/store")
    larger = seal_directory(store, build_tiny_model(tmp_path / "larger", vocab=4096))
    HandoffStore(store).publish(
        "trained_model", "tiny.define", base_model_table(larger), code_version="1", run_id="run"
    )
    project.write("resources/recipes/next.yaml", f"{RECIPE.replace('define', 'next')}base_recipe: tiny.define\n")
    assert int(demand_of_recipe("tiny.next", False)[MEMORY_MIB]) > int(plain[MEMORY_MIB])
