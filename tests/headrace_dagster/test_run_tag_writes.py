"""Tags of several runs in one transaction, on a database that stays open."""

from collections.abc import Iterator
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from dagster import DagsterInstance, DagsterRunStatus, RunsFilter
from dagster._core.test_utils import create_run_for_test, instance_for_test

from headrace_dagster.coordinator import run_tag_writes
from headrace_dagster.coordinator.run_tag_writes import OpenDatabases, add_tags


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[DagsterInstance]:
    with instance_for_test(temp_dir=str(tmp_path)) as instance:
        yield instance


def submitted(instance: DagsterInstance, **tags: str) -> str:
    return create_run_for_test(instance, tags=tags, status=DagsterRunStatus.STARTED).run_id


def tags_of(instance: DagsterInstance, run_id: str) -> dict[str, str]:
    run = instance.get_run_by_id(run_id)
    assert run
    return {key: value for key, value in run.tags.items() if not key.startswith((".", "dagster/"))}


@pytest.mark.parametrize("num_runs", [1, 2, 5])
def test_new_tags_are_added_and_known_ones_replaced_in_the_run_and_in_the_index(
    instance: DagsterInstance, num_runs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_tag_writes, "_RUNS_AT_ONCE", 2)
    ids = [submitted(instance, gate="held", other=f"{number}") for number in range(num_runs)]

    add_tags(instance, {run_id: {"gate": "admitted", "place": run_id} for run_id in ids})

    for number, run_id in enumerate(ids):
        assert tags_of(instance, run_id) == {"gate": "admitted", "other": f"{number}", "place": run_id}
        assert instance.get_run_ids(RunsFilter(tags={"place": run_id})) == [run_id]
    assert instance.get_runs_count(RunsFilter(tags={"gate": "admitted"})) == num_runs
    assert instance.get_runs_count(RunsFilter(tags={"gate": "held"})) == 0


def test_the_status_stays_and_the_row_counts_as_updated(instance: DagsterInstance) -> None:
    ids = [submitted(instance), submitted(instance)]
    before = {record.dagster_run.run_id: record.update_timestamp for record in instance.get_run_records()}

    add_tags(instance, {run_id: {"place": "a"} for run_id in ids})

    for record in instance.get_run_records():
        assert record.dagster_run.status == DagsterRunStatus.STARTED
        assert record.update_timestamp > before[record.dagster_run.run_id]


def test_a_run_that_was_deleted_meanwhile_is_passed_over(instance: DagsterInstance) -> None:
    kept, deleted = submitted(instance), submitted(instance)
    instance.delete_run(deleted)

    add_tags(instance, {kept: {"place": "a"}, deleted: {"place": "b"}})

    assert tags_of(instance, kept) == {"place": "a"}
    assert instance.get_runs_count() == 1


def test_two_writers_of_several_runs_lose_nothing_of_each_other(instance: DagsterInstance) -> None:
    ids = [submitted(instance) for _ in range(20)]

    def write(name: str) -> None:
        for number in range(10):
            add_tags(instance, {run_id: {f"{name}{number}": name} for run_id in ids})

    writers = [Thread(target=write, args=(name,)) for name in ("a", "b")]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()

    assert all(len(tags_of(instance, run_id)) == 20 for run_id in ids)


def test_nothing_is_written_of_a_write_that_fails_half_way(
    instance: DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_tag_writes, "_RUNS_AT_ONCE", 1)
    first, second = sorted([submitted(instance), submitted(instance)])
    broken: Any = object()
    with pytest.raises(Exception, match="key place"):
        add_tags(instance, {first: {"place": "a"}, second: {"place": broken}})
    assert tags_of(instance, first) == {}


def test_the_log_of_an_open_database_outlives_the_statements_of_others(
    instance: DagsterInstance, tmp_path: Path
) -> None:
    submitted(instance)
    assert not list(tmp_path.rglob("runs.db-wal")), "Dagster's own last connection deletes it: nothing to save any more"

    held = OpenDatabases(instance)
    submitted(instance)
    assert list(tmp_path.rglob("runs.db-wal"))
    assert instance.get_runs_count() == 2

    held.close()
    submitted(instance)
    assert not list(tmp_path.rglob("runs.db-wal"))
