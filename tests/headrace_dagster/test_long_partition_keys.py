"""A partition key too long for a file name is a partition like any other: made, read, listed, kept."""

from typing import Any

import dagster as dg
import pyarrow as pa

from headrace.clock import SystemClock
from headrace.handoff.collecting import plan_collection
from headrace.store.protection import Answer
from headrace_dagster.collection import named_by
from tests.command_line.builders import run
from tests.headrace_dagster.project import Project

KEY = "二〇二六年十一月二十八日夜间批次：面向儿童的自然科学词汇表，第三部分"
# Differs where the path no longer shows it.
OTHER = KEY + "续"
KEYS = dg.StaticPartitionsDefinition([KEY, OTHER])


@dg.asset(partitions_def=KEYS, code_version="1")
def chapters(context: dg.AssetExecutionContext) -> pa.Table:
    return pa.table({"key": [context.partition_key]})


def test_it_is_sealed_read_listed_and_shown(project: Project) -> None:
    seen: list[Any] = []

    @dg.asset
    def book(chapters: pa.Table) -> None:
        seen.extend(chapters["key"].to_pylist())

    for key in (KEY, OTHER):
        project.make(chapters, partition_key=key)
    project.make(book, chapters)

    assert seen == [KEY, OTHER]
    assert project.handoffs.open("chapters", OTHER).partition == OTHER
    listed = project.handoffs.partitions("chapters")
    assert sorted(project.handoffs.open("chapters", name).partition for name in listed) == sorted([KEY, OTHER])
    versions = run("handoff", "ls", "chapters", "--json", store=project.directory).stdout
    assert KEY in versions
    assert run("handoff", "show", "chapters", KEY, store=project.directory).exit_code == 0


def test_what_dagster_names_of_it_is_kept(project: Project) -> None:
    project.make(chapters, partition_key=KEY)
    for number in range(2):  # newer ones, of which Dagster knows nothing
        project.handoffs.publish("chapters", KEY, pa.table({"n": [number]}), code_version="2", run_id="by hand")
    dagster = {"dagster": lambda asked: Answer(named=named_by(project.instance, asked))}
    objects = project.handoffs.objects
    plan = plan_collection(objects, SystemClock(), protectors=dagster, keep_versions=1, grace_seconds=0)

    assert {verdict.found.version: verdict.is_kept for verdict in plan.versions} == {1: True, 2: False, 3: True}
