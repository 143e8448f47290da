"""Engine hosts of the parts of this benchmark: real processes, and members of sets that they hold."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil

from benchmarks.measuring import ChildFailed
from headrace.engines.asker import Asker
from headrace.engines.deployment import Deployment
from headrace.engines.host.address import HostAddress, store_address
from headrace.engines.host.client import HostedEngine, HostedMediaEngine, hosted
from headrace.engines.host.connection import table_of
from headrace.engines.host.table_view import ModelRow
from headrace.engines.registry import EngineKind, Opening
from headrace.fairness import WorkClass
from headrace.store.local import LocalStore
from headrace.store.sealed_directory import seal_directory
from headrace.unix_sockets import is_listened_on
from headrace.version_sets.sets import Member

_START_SECONDS_MAX = 120.0


@dataclass(frozen=True, kw_only=True)
class EngineHost:
    process: psutil.Process
    address: HostAddress

    def deployment(self, work_class: WorkClass = "batch") -> Deployment:
        return Deployment(host=self.address, asker=Asker(work_class=work_class))

    @property
    def models(self) -> dict[str, ModelRow]:
        """By their key."""
        table = table_of(self.address.socket_file)
        assert table, "the host lives"
        return {row.id: row for row in table.data}


@contextmanager
def engine_host(
    directory: Path,
    store: LocalStore,
    *,
    memory_mib: int,
    idle_seconds: float = 3600.0,
    environment: Mapping[str, str] | None = None,
) -> Iterator[EngineHost]:
    """A host with an account of its own, gone after the block. `directory`: for its socket and its log."""
    socket_file, address = directory / "host.sock", store_address(store)
    assert address
    command = ["headrace.engines.host", "--socket", str(socket_file)]
    command += ["--memory-mib", str(memory_mib), "--idle-seconds", str(idle_seconds)]
    with listening(command, socket_file, directory / "host.log", environment) as pid:
        yield EngineHost(process=psutil.Process(pid), address=HostAddress(socket_file=socket_file, store=address))


@contextmanager
def listening(
    command: Sequence[str], socket_file: Path, log: Path, environment: Mapping[str, str] | None = None
) -> Iterator[int]:
    """The id of a process of `python -m COMMAND` that listens on a socket; it is gone after the block."""
    with log.open("ab") as errors:
        started = [sys.executable, "-m", *command]
        process = subprocess.Popen(started, stderr=errors, env={**os.environ, **(environment or {})})
    try:
        ends = time.monotonic() + _START_SECONDS_MAX
        while not is_listened_on(socket_file):
            if process.poll() is not None or time.monotonic() > ends:
                raise ChildFailed(f"{command[0]} does not start: {log.read_text()[-2000:]}")
            time.sleep(0.02)
        yield process.pid
    finally:
        process.terminate()
        process.wait(60)


def opened(
    kind: EngineKind, member: Member, store: LocalStore, deployment: Deployment, **options: Any
) -> HostedEngine | HostedMediaEngine:
    """An engine whose model the deployment's host holds. Blocks until it is there."""
    given = kind.options(**options)
    opening = Opening(member=member, spec=kind.spec(given), options=given, deployment=deployment, objects=store)
    engine = hosted(kind, opening)
    assert isinstance(engine, HostedEngine | HostedMediaEngine), "the host takes it"
    engine.name = kind.name
    return engine


def with_weights(member: Member, store: LocalStore, directory: Path) -> Member:
    """The member with a directory's weights, which the store has then."""
    sealed = seal_directory(store, directory)
    return replace(member, weights_digest=sealed.digest, weights_uri=sealed.uri)


def with_entry_point(directory: Path, name: str, kind: str) -> dict[str, str]:
    """What an installer makes of a package that offers an engine; the environment in which it is found."""
    info = directory / f"{name}-1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n")
    (info / "entry_points.txt").write_text(f"[headrace.engines]\n{name} = {kind}\n")
    return {"PYTHONPATH": os.pathsep.join([str(directory), str(Path(__file__).parents[2])])}
