"""A store with a few sealed versions, and the command run on it, in this process or as a real one."""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jsonschema
import pyarrow as pa
from typer.testing import CliRunner, Result

from headrace.command_line.main import app
from headrace.handoff.versions import Handoff, HandoffStore
from headrace.store.local import LocalStore

CHECKOUT = Path(__file__).parents[2]
# What would otherwise come in from whoever runs the tests.
_CLEAN = {"HEADRACE_STORE": None, "HEADRACE_HOME": None, "HEADRACE_CACHE": None, "DAGSTER_HOME": None}


def make_documents(num_rows: int, *, edited: Sequence[int] = (), first: int = 0) -> pa.Table:
    numbers = range(first, first + num_rows)
    return pa.table(
        {
            "document_id": [f"doc-{number:05d}" for number in numbers],
            "text": [f"text {number}{' edited' if number in edited else ''}" for number in numbers],
            "examples": pa.array([[f"e{number}"] * (number % 3) for number in numbers], pa.list_(pa.string())),
            "score": [number / 3 for number in numbers],
        }
    )


def publish(directory: Path | HandoffStore, asset: str, partition: str, rows: pa.Table, **stated: Any) -> Handoff:
    handoffs = directory if isinstance(directory, HandoffStore) else HandoffStore(LocalStore(directory))
    return handoffs.publish(asset, partition, rows, **{"code_version": "c1", "run_id": "run-1", **stated})


def make_store(directory: Path) -> Path:
    """raw_documents with two partitions of 3 and 1 versions, labels with one."""
    for version in range(3):
        publish(
            directory,
            "raw_documents",
            "shard-00",
            make_documents(100 + version, edited=range(version)),
            input_versions={"corpus[all]": f"v1 {'a' * 64}"},
            attributes={"language": "en"},
        )
    publish(directory, "raw_documents", "shard-01", make_documents(10))
    publish(directory, "labels", "all", make_documents(5))
    return directory


def run(*arguments: str | Path, store: Path | str | None = None, env: Mapping[str, str | None] | None = None) -> Result:
    """The command in this process; its output is a pipe."""
    variables = {**_CLEAN, "HEADRACE_STORE": str(store) if store else None, **(env or {})}
    # Outside of the checkout, whose `.env` would come before a test's own variables.
    outside = contextlib.chdir("/") if Path.cwd() == CHECKOUT else contextlib.nullcontext()
    with outside:
        return CliRunner().invoke(app, [str(argument) for argument in arguments], env=variables, prog_name="headrace")


def checked_json(result: Result, kind: str, *, exit_code: int = 0) -> Any:
    """What a command printed, after a comparison with its published schema."""
    assert result.exit_code == exit_code, result.output
    return checked_body(json.loads(result.stdout), kind)


def checked_body(body: Any, kind: str) -> Any:
    jsonschema.validate(body, json.loads((CHECKOUT / f"docs/schemas/{kind}.schema.json").read_text()))
    return body


def start(
    *arguments: str | Path, store: Path | str | None = None, env: Mapping[str, str] | None = None, **options: Any
) -> subprocess.Popen[str]:
    """The command as a process of its own."""
    variables = {name: value for name, value in os.environ.items() if name not in _CLEAN}
    if store:
        variables["HEADRACE_STORE"] = str(store)
    return subprocess.Popen(
        [sys.executable, "-m", "headrace.command_line.main", *map(str, arguments)],
        env={**variables, **(env or {})},
        text=True,
        **{"cwd": "/", "stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options},
    )


def flip_a_byte(handoff: Handoff) -> None:
    path = handoff.objects.local_path(handoff.manifest.parts[0].key)
    body = bytearray(path.read_bytes())
    body[len(body) // 2] ^= 1
    path.unlink()
    path.write_bytes(body)


def objects_of(part: Any) -> Iterator[dict[str, Any]]:
    """Every object that a JSON Schema describes."""
    if isinstance(part, dict):
        if part.get("type") == "object" and "properties" in part:
            yield part
        for one in part.values():
            yield from objects_of(one)
    elif isinstance(part, list):
        for one in part:
            yield from objects_of(one)
