"""Makes Dagster's SQLite cheap for tests: three things that it does anew each time are done once.

Each connection makes an engine, which compiles every statement again; each opened instance reads some ninety migration
scripts, twice; each look at a run asks the database whether it has the columns of 2021. Together that is two thirds of
the CPU time of a test with an instance. What is stored stays the same.
"""

import sys
from typing import Any


def make_instances_cheap() -> None:
    """Does nothing in a process that has not imported Dagster."""
    if "dagster" not in sys.modules:
        return
    from alembic.script import ScriptDirectory
    from dagster._core.storage.event_log.sqlite import consolidated_sqlite_event_log, sqlite_event_log
    from dagster._core.storage.runs.sql_run_storage import SqlRunStorage
    from dagster._core.storage.runs.sqlite import sqlite_run_storage
    from dagster._core.storage.schedules.sqlite import sqlite_schedule_storage
    from dagster._core.storage.sql import create_engine

    engines = dict[str, Any]()  # without pools: each connection is new nevertheless

    def engine_of(url: str, **options: Any) -> Any:
        if url not in engines:
            engines[url] = create_engine(url, **options)
        return engines[url]

    for module in (consolidated_sqlite_event_log, sqlite_event_log, sqlite_run_storage, sqlite_schedule_storage):
        vars(module)["create_engine"] = engine_of
    read, directories = ScriptDirectory.from_config, dict[tuple[str | None, ...], ScriptDirectory]()

    def from_config(config: Any) -> ScriptDirectory:
        key = (config.config_file_name, config.get_main_option("script_location"))
        if key not in directories:
            directories[key] = read(config)
        return directories[key]

    ScriptDirectory.from_config = from_config
    has_columns, yes = SqlRunStorage.has_run_stats_index_cols, set[bool]()

    def has_run_stats_index_cols(self: SqlRunStorage) -> bool:
        if True not in yes:
            yes.add(has_columns(self))
        return True in yes

    SqlRunStorage.has_run_stats_index_cols = has_run_stats_index_cols
