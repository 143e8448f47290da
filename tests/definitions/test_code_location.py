"""The code location as Dagster's own processes load it."""

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

CHECKOUT = Path(__file__).parents[2]
HEAVY = {
    *("torch", "transformers", "deepspeed", "accelerate", "safetensors"),
    *("mlflow", "matplotlib", "scipy", "pandas", "sklearn", "kubernetes"),
}
_LOAD = """
import json, sys
from pipelines.definitions import defs
repository = defs.get_repository_def()
json.dump({
    "modules": sorted({name.partition(".")[0] for name in sys.modules}),
    "sensors": {sensor.name: sensor.default_status.value for sensor in repository.sensor_defs},
    "schedules": {schedule.name: schedule.default_status.value for schedule in repository.schedule_defs},
}, sys.stdout)
"""


def load(**environment: str) -> dict[str, dict[str, str]]:
    loaded = subprocess.run(
        [sys.executable, "-c", _LOAD],
        cwd=CHECKOUT,
        env={name: value for name, value in os.environ.items() if not name.startswith("HEADRACE_")} | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert loaded.returncode == 0, loaded.stderr
    return json.loads(loaded.stdout)


@pytest.fixture(scope="module")
def in_development() -> dict[str, dict[str, str]]:
    return load()


def test_it_loads_without_models_and_without_the_registry(in_development: dict[str, dict[str, str]]) -> None:
    """Each run's worker loads it: torch alone would double a short run's cost."""
    assert HEAVY & set(in_development["modules"]) == set()


def test_nothing_runs_by_itself_in_development(in_development: dict[str, dict[str, str]]) -> None:
    statuses = in_development["sensors"] | in_development["schedules"]
    # Keys of new recipe and campaign files launch nothing; without them nothing could be clicked.
    assert {name for name, status in statuses.items() if status != "STOPPED"} == {"partition_keys"}


def test_everything_runs_by_itself_where_automation_is_on(in_development: dict[str, dict[str, str]]) -> None:
    automated = load(HEADRACE_AUTOMATION="on")
    statuses = automated["sensors"] | automated["schedules"]
    assert set(statuses) == set(in_development["sensors"] | in_development["schedules"])
    assert set(statuses.values()) == {"RUNNING"}


def test_dg_and_dagster_call_the_location_by_one_name() -> None:
    """Schedules and sensors are known by location: under two names they would be two, each with its own state."""
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["tool"]["dg"]["project"]
    (module,) = [
        entry["python_module"] for entry in yaml.safe_load((CHECKOUT / "workspace.yaml").read_text())["load_from"]
    ]
    assert module["location_name"] == project["code_location_name"]
    assert module["module_name"] == project["code_location_target_module"]
