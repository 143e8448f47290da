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
import dagster as dg
from pipelines.definitions import defs
from resources.partition_keys import keys_of_files
from resources.settings import settings_from_environment
repository = defs.get_repository_def()
json.dump({
    "modules": sorted({name.partition(".")[0] for name in sys.modules}),
    "sensors": {sensor.name: sensor.default_status.value for sensor in repository.sensor_defs},
    "schedules": {schedule.name: schedule.default_status.value for schedule in repository.schedule_defs},
    "partitions": {
        name: repository.asset_graph.get(dg.AssetKey(name)).partitions_def.get_partition_keys()
        for name in ("raw_documents",)
    },
    "shards": keys_of_files(settings_from_environment())["campaign_shard"],
}, sys.stdout)
"""


def started(**environment: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-c", _LOAD],
        cwd=CHECKOUT,
        env={name: value for name, value in os.environ.items() if not name.startswith("HEADRACE_")} | environment,
        capture_output=True,
        text=True,
        check=False,
    )


def load(**environment: str) -> dict[str, dict[str, str]]:
    loaded = started(**environment)
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


def test_it_loads_with_a_broken_file_of_every_kind_and_names_each(tmp_path: Path) -> None:
    campaign = (CHECKOUT / "resources/campaigns/glossary.yaml").read_text()
    for path, text in {
        "campaigns/good.yaml": campaign,
        "campaigns/bad.yaml": campaign.replace("name: glossary", "name: bad").replace(
            "num_shards: 10", "num_shards: x"
        ),
        "recipes/torn.yaml": "model: [",
        "services/bad.yaml": "name: bad\nchain: nobody\n",
        "corpus.yaml": "name: bad\nnum_shards: 3\nprompts: none\n",
    }.items():
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text(text)
    places = {kind: str(tmp_path / kind) for kind in ("campaigns", "recipes", "services")}
    variables = {f"HEADRACE_{kind.upper()}": place for kind, place in places.items()}
    loaded = started(HEADRACE_CORPUS=str(tmp_path / "corpus.yaml"), HEADRACE_HOME=str(tmp_path), **variables)
    assert loaded.returncode == 0, loaded.stderr
    found = json.loads(loaded.stdout)
    assert found["shards"] == [f"glossary-{shard:02d}" for shard in range(10)]
    assert found["partitions"]["raw_documents"] == ["shard-00", "shard-01", "shard-02"]
    for said in (
        f"Campaign file {tmp_path}/campaigns/bad.yaml:7:13: num_shards must be a whole number, got 'x'.",
        f"Recipe {tmp_path}/recipes/torn.yaml:",
        f"Service file {tmp_path}/services/bad.yaml has 2 faults:",
        f"Corpus file {tmp_path}/corpus.yaml has 2 faults:",
    ):
        assert said in loaded.stderr


def test_dg_and_dagster_call_the_location_by_one_name() -> None:
    """Schedules and sensors are known by location: under two names they would be two, each with its own state."""
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["tool"]["dg"]["project"]
    (module,) = [
        entry["python_module"] for entry in yaml.safe_load((CHECKOUT / "workspace.yaml").read_text())["load_from"]
    ]
    assert module["location_name"] == project["code_location_name"]
    assert module["module_name"] == project["code_location_target_module"]
