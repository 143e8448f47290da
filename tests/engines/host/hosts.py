"""Engine hosts as real processes, and the engines that ask them."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from headrace.engines.deployment import Deployment
from headrace.engines.host.address import HostAddress, store_address
from headrace.engines.host.connection import table_of
from headrace.engines.host.table_view import ModelRow, Table
from headrace.engines.host.wanted import CPU
from headrace.store.local import LocalStore
from headrace.store.objects import ObjectStore
from headrace.unix_sockets import is_listened_on
from tests.waiting import eventually


@dataclass(eq=False)
class RunningHost:
    process: "subprocess.Popen[bytes]"
    socket_file: Path

    @property
    def table(self) -> Table:
        found = table_of(self.socket_file)
        assert found, "the host lives"
        return found

    @property
    def models(self) -> dict[str, ModelRow]:
        """By what they are for people."""
        return {row.model: row for row in self.table.data}

    def deployment(self, objects: ObjectStore | None = None, device: str = CPU) -> Deployment:
        store = store_address(objects or LocalStore(self.socket_file.parent / "no-store"))
        assert store
        address = HostAddress(socket_file=self.socket_file, store=store, device=device)
        return Deployment(host=address)


@contextmanager
def running_host(
    *options: str, module: str = "headrace.engines.host", python_path: Sequence[Path] = ()
) -> Iterator[RunningHost]:
    """A host in a directory of its own, short as a socket's path must be; it and its models are gone afterwards."""
    directory = Path(tempfile.mkdtemp(dir="/tmp", prefix="hr-host-"))
    host = started_host(directory / "host.sock", *options, module=module, python_path=python_path)
    try:
        yield host
    finally:
        pids = [row.pid for row in table.data if row.pid] if (table := _table(host)) else []
        host.process.terminate()
        host.process.wait()
        eventually(lambda: not any(map(is_alive, pids)), "the models' processes are gone")
        shutil.rmtree(directory)


def started_host(
    socket_file: Path, *options: str, module: str = "headrace.engines.host", python_path: Sequence[Path] = ()
) -> RunningHost:
    """Args: python_path: for it and its models, before what this process has."""
    command = [sys.executable, "-m", module, "--socket", str(socket_file), *options]
    found = os.pathsep.join([*map(str, python_path), os.environ.get("PYTHONPATH", "")]).strip(os.pathsep)
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, env={**os.environ, "PYTHONPATH": found})
    eventually(lambda: is_listened_on(socket_file), "the host listens")
    return RunningHost(process, socket_file)


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    """The process does nothing meanwhile; whoever waits for it waits."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        if is_alive(pid):
            os.kill(pid, signal.SIGCONT)


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def _table(host: RunningHost) -> Table | None:
    return table_of(host.socket_file) if host.process.poll() is None else None
