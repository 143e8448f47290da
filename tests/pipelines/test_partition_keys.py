"""Partition keys exist as soon as the files do: registered while the definitions load, at next to no cost."""

import logging
import shutil
import sys
from pathlib import Path

import dagster as dg
import pytest
from sqlalchemy.exc import IntegrityError

from headrace_dagster.partition_keys import register_keys, unknown_keys
from resources import partition_keys
from resources.partition_keys import keys_of_files, register_when_loaded
from resources.settings import CHECKOUT, settings_from_environment

CAMPAIGN = (CHECKOUT / "resources/campaigns/glossary.yaml").read_text().replace("num_shards: 10", "num_shards: 2")


@pytest.fixture
def campaigns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with one campaign, and an instance that nobody has opened yet."""
    directory = tmp_path / "campaigns"
    for folder in (directory, tmp_path / "dagster_home"):
        folder.mkdir()
    shutil.copy(CHECKOUT / "dagster_home/dagster.yaml", tmp_path / "dagster_home")
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "dagster_home"))
    monkeypatch.setenv("HEADRACE_HOME", str(tmp_path))
    monkeypatch.setenv("HEADRACE_CAMPAIGNS", str(directory))
    (directory / "glossary.yaml").write_text(CAMPAIGN)
    return directory


def load() -> None:
    register_when_loaded(settings_from_environment())


def known(name: str) -> list[str]:
    with dg.DagsterInstance.get() as instance:
        return list(instance.get_dynamic_partitions(name))


@pytest.fixture
def openings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """One entry for each time that loading opens the instance."""
    opened, get = list[str](), dg.DagsterInstance.get

    def counted() -> dg.DagsterInstance:
        opened.append("opened")
        return get()

    monkeypatch.setattr(partition_keys.dg.DagsterInstance, "get", counted)
    return opened


def test_loading_registers_the_keys_of_every_file_and_opens_no_instance_when_nothing_is_new(
    campaigns: Path, openings: list[str]
) -> None:
    load()
    assert openings == ["opened"]
    load()
    assert openings == ["opened"]
    assert known("campaign") == ["glossary"]
    assert known("campaign_shard") == ["glossary-00", "glossary-01"]
    assert "smollm2-135m.define" in known("model_recipe")


def test_a_new_file_and_a_raised_number_of_shards_are_new_keys_and_a_deleted_file_takes_none_away(
    campaigns: Path,
) -> None:
    load()
    (campaigns / "glossary.yaml").unlink()
    (campaigns / "fables.yaml").write_text(CAMPAIGN.replace("name: glossary", "name: fables"))
    load()
    (campaigns / "fables.yaml").write_text(CAMPAIGN.replace("glossary", "fables").replace("shards: 2", "shards: 3"))
    load()
    assert known("campaign") == ["glossary", "fables"]
    assert known("campaign_shard") == ["glossary-00", "glossary-01", "fables-00", "fables-01", "fables-02"]


def test_an_instance_whose_database_was_deleted_gets_its_keys_again(campaigns: Path, tmp_path: Path) -> None:
    load()
    for kept in (tmp_path / "dagster_home/history").iterdir():
        shutil.rmtree(kept) if kept.is_dir() else None
    load()
    assert known("campaign") == ["glossary"]


def test_a_campaign_and_a_service_of_one_name_have_no_rollout_and_the_campaign_keeps_its_shards(
    campaigns: Path, tmp_path: Path
) -> None:
    (tmp_path / "services").mkdir()
    service = (CHECKOUT / "resources/services/assistant.yaml").read_text()
    (tmp_path / "services/one.yaml").write_text(service.replace("name: assistant", "name: glossary"))
    (tmp_path / "services/two.yaml").write_text(service)
    found = keys_of_files(settings_from_environment())
    assert found["campaign"] == ["assistant"]
    assert found["campaign_shard"] == ["glossary-00", "glossary-01"]


BROKEN = {"settings that are none": "telemetry: 7\n", "settings that are not YAML": "storage: ["}


@pytest.mark.parametrize("phrase", BROKEN)
def test_definitions_load_beside_an_instance_that_does_not_open(
    phrase: str, campaigns: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "dagster_home/dagster.yaml").write_text(BROKEN[phrase])
    monkeypatch.setattr(logging.getLogger("dagster"), "propagate", True)
    load()
    (record,) = caplog.records
    assert record.message.startswith("The partition keys of new files are not registered: ")


@pytest.mark.parametrize("home", [None, "nobody/has/opened/one"])
def test_without_an_instance_nothing_is_registered_and_none_is_made(
    home: str | None, campaigns: Path, openings: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / home)) if home else monkeypatch.delenv("DAGSTER_HOME")
    load()
    assert openings == []
    assert not (tmp_path / "nobody").exists()


@pytest.mark.parametrize("command", ["execute_run", "execute_step"])
def test_a_runs_worker_registers_nothing(
    command: str, campaigns: Path, openings: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever launched its run knew its partition."""
    monkeypatch.setattr(sys, "argv", ["dagster", "api", command, "{}"])
    load()
    assert openings == []


def test_keys_that_another_process_adds_at_the_same_time_are_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        add, tries = instance.add_dynamic_partitions, list[list[str]]()

        def overtaken(name: str, keys: list[str]) -> None:
            tries.append(list(keys))
            if len(tries) == 1:
                add(name, ["a"])
                raise IntegrityError("INSERT", {}, Exception("UNIQUE constraint failed"))
            add(name, keys)

        monkeypatch.setattr(instance, "add_dynamic_partitions", overtaken)
        wanted = {"letters": ["a", "b"], "numbers": ["1"]}
        register_keys(instance, wanted)
        assert tries == [["a", "b"], ["b"], ["1"]]
        assert unknown_keys(instance, wanted) == {}


def test_keys_are_added_in_portions_that_a_database_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = [f"shard-{number:05d}" for number in range(20_005)]
    with dg.DagsterInstance.ephemeral() as instance:
        add, portions = instance.add_dynamic_partitions, list[int]()

        def counted(name: str, some: list[str]) -> None:
            portions.append(len(some))
            add(name, some)

        monkeypatch.setattr(instance, "add_dynamic_partitions", counted)
        register_keys(instance, {"many": keys})
        assert portions == [10_000, 10_000, 5]
        assert list(instance.get_dynamic_partitions("many")) == keys
