"""What this project's definitions hold: assets, their checks, jobs, schedules and sensors, by their names in the UI."""

import ast
import inspect
from collections.abc import Iterable
from typing import Any

from pipelines import schedules, sensors
from pipelines.definitions import defs
from pipelines.reference.markdown import code, page, prose, table


def definitions_page() -> str:
    repository = defs.get_repository_def()
    graph = repository.asset_graph
    assets = sorted(graph.get_all_asset_keys(), key=lambda key: (graph.get(key).group_name, key.to_user_string()))
    jobs = sorted((job for job in repository.get_all_jobs() if not job.name.startswith("__")), key=_name)
    checks = sorted(graph.asset_check_keys, key=lambda key: (key.asset_key.to_user_string(), key.name))
    texts = _docstrings()
    return page(
        "Definitions",
        "What `dg list defs` lists in this project: assets by stage, what checks them, and what starts them. Schedules "
        "and sensors that are not on by themselves start with `HEADRACE_AUTOMATION=on`.",
        "## Assets",
        table(
            ["asset", "stage", "one partition a", "holds"],
            [
                [
                    code(key.to_user_string()),
                    code(graph.get(key).group_name),
                    _partitions(graph.get(key).partitions_def),
                    prose(graph.get(key).description or ""),
                ]
                for key in assets
            ],
        ),
        "## Asset checks",
        _described(
            ["check", "meaning"],
            ((f"{key.asset_key.to_user_string()}:{key.name}", graph.get(key).description) for key in checks),
        ),
        "## Jobs",
        _described(["job", "meaning"], ((job.name, job.description) for job in jobs)),
        "## Schedules",
        table(
            ["schedule", "when", "starts", "meaning"],
            [
                [code(one.name), code(str(one.cron_schedule)), code(one.job_name), prose(_text(one, texts))]
                for one in sorted(repository.schedule_defs, key=_name)
            ],
        ),
        "## Sensors",
        _described(
            ["sensor", "meaning"], ((one.name, _text(one, texts)) for one in sorted(repository.sensor_defs, key=_name))
        ),
    )


def _described(headers: list[str], rows: Iterable[tuple[str, str | None]]) -> str:
    return table(headers, [[code(name), prose(text or "")] for name, text in rows])


def _partitions(definition: Any) -> str:
    name = getattr(definition, "name", None)
    if name:
        return prose(name.replace("_", " "))
    dimensions = getattr(definition, "partitions_defs", None)
    if dimensions:
        return " × ".join(one.name for one in dimensions)
    return "day" if hasattr(definition, "cron_schedule") else "corpus shard" if definition else "run"


def _docstrings() -> dict[str, str]:
    """Of the functions that schedules and sensors call; Dagster takes them for no description."""
    functions = [
        one
        for module in (schedules, sensors)
        for one in ast.parse(inspect.getsource(module)).body
        if isinstance(one, ast.FunctionDef)
    ]
    return {one.name: ast.get_docstring(one) or "" for one in functions}


def _text(one: Any, texts: dict[str, str]) -> str:
    return one.description or texts.get(one.name, "")


def _name(one: Any) -> str:
    return one.name
