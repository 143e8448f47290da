"""The systems that keep steps: how each is started, so that a step's result is on the disk before the next one begins.

| system | durable by | at its best |
|---|---|---|
| headrace | the gateway's log, SQLite with a write-ahead log, `synchronous=FULL` | groups of up to 64 |
| restate | the server's log, on RocksDB with a synced write-ahead log (its default) | HTTP/2 to the service |
| dbos | Postgres, `fsync=on`, `synchronous_commit=on` | workflows in threads, a connection for each |
| temporal | the development server's SQLite file | activities and workflows polled for by 10 each |
"""

import json
import os
import pwd
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.inbox.systems import wait_for
from benchmarks.measuring import Child
from pipelines.object_store import free_ports
from pipelines.setup import DURABLE
from simulation.servers.processes import end_group

_PYTHON = DURABLE / "bin/python"
_START_SECONDS_MAX = 60.0
# Beyond these none of them was faster where this was first measured.
_CONCURRENCIES = (1, 16, 64, 256)


@dataclass(frozen=True, kw_only=True)
class StepSystem:
    """`program` is looked for on the path, in the peers' environment and in the directories given with --bin.

    `module` runs units with `interpreter`; `serving` starts what it needs, and yields its address.
    """

    name: str
    program: str
    module: str
    interpreter: Path
    serving: Callable[[str, Path], AbstractContextManager[str]]
    concurrencies: tuple[int, ...] = _CONCURRENCIES


@contextmanager
def _nothing(program: str, directory: Path) -> Iterator[str]:
    yield ""


@contextmanager
def _restate(program: str, directory: Path) -> Iterator[str]:
    ingress, admin, node = free_ports(3)
    environment = {
        "RESTATE_INGRESS__BIND_ADDRESS": f"127.0.0.1:{ingress}",
        "RESTATE_ADMIN__BIND_ADDRESS": f"127.0.0.1:{admin}",
        "RESTATE_LOG_FILTER": "error",
        "RESTATE_DISABLE_TELEMETRY": "true",
        "DO_NOT_TRACK": "1",
        # Its default of 24 is for machines with more cores.
        "RESTATE_DEFAULT_NUM_PARTITIONS": "4",
        # What a unit did is not kept once it has ended, as with us.
        "RESTATE_DEFAULT_JOURNAL_RETENTION": "0s",
    }
    command = [program, "--base-dir", str(directory), "--listen-mode", "tcp", "--bind-ip", "127.0.0.1"]
    command += ["--bind-port", str(node), "--node-name", "steps", "--no-logo"]
    with _started(command, directory, admin, environment=environment):
        service = Child("benchmarks.inbox.steps.restate_service", {}, interpreter=_PYTHON)
        try:
            [port] = service.wait_for("ready")
            body = json.dumps({"uri": f"http://127.0.0.1:{port}"}).encode()
            _until_answered(f"http://127.0.0.1:{admin}/deployments", body)
            yield f"http://127.0.0.1:{ingress}"
        finally:
            service.kill()


@contextmanager
def _postgres(program: str, directory: Path) -> Iterator[str]:
    """Postgres refuses to run as root: then it runs as the system's user of that name."""
    (port,) = free_ports(1)
    user = pwd.getpwnam("postgres").pw_name if os.geteuid() == 0 else None
    data, initdb = directory / "data", str(Path(program).with_name("initdb"))
    if user:
        # Its directory is its own, and whoever made the one above let it through.
        shutil.chown(directory, user)
        directory.parent.chmod(0o755)
    made = [initdb, "-D", str(data), "-U", "steps", "--auth=trust", "--encoding=UTF8", "--no-instructions"]
    subprocess.run(made, check=True, stdout=subprocess.DEVNULL, user=user, cwd=directory)
    settings = {"port": port, "listen_addresses": "127.0.0.1", "unix_socket_directories": "", "max_connections": 300}
    settings |= {"fsync": "on", "synchronous_commit": "on", "full_page_writes": "on"}
    settings |= {"shared_buffers": "512MB", "max_wal_size": "8GB", "wal_compression": "lz4", "jit": "off"}
    options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
    with _started([program, "-D", str(data), *options], directory, port, user=user):
        yield f"postgresql://steps@127.0.0.1:{port}/steps"


@contextmanager
def _temporal(program: str, directory: Path) -> Iterator[str]:
    (port,) = free_ports(1)
    command = [program, "server", "start-dev", "--headless", "--ip", "127.0.0.1", "--port", str(port)]
    command += ["--db-filename", str(directory / "temporal.db"), "--log-level", "error"]
    command += ["--sqlite-pragma", "synchronous=FULL", "--sqlite-pragma", "journal_mode=WAL"]
    with _started(command, directory, port):
        yield f"127.0.0.1:{port}"


@contextmanager
def _started(
    command: Sequence[str],
    directory: Path,
    port: int,
    *,
    environment: Mapping[str, str] | None = None,
    user: str | None = None,
) -> Iterator[None]:
    """A server that ends with the block."""
    with (directory / "server.log").open("wb") as log:
        process = subprocess.Popen(
            command,
            stdout=log,
            stderr=log,
            cwd=directory,
            env={**os.environ, **(environment or {})},
            user=user,
            start_new_session=True,
        )
    try:
        wait_for(port, process, directory)
        yield
    finally:
        end_group(process)


def _until_answered(url: str, body: bytes) -> None:
    """Posts until it is taken: a server listens before it is ready."""
    ends, said = time.monotonic() + _START_SECONDS_MAX, ""
    while time.monotonic() < ends:
        request = urllib.request.Request(url, data=body, headers={"Content-Type": "application/json"})
        try:
            urllib.request.urlopen(request, timeout=30).close()
            return
        except (urllib.error.URLError, OSError) as error:
            said = str(error)
            time.sleep(0.2)
    raise RuntimeError(f"{url} took nothing: {said}")


PEERS = {
    system.name: system
    for system in (
        StepSystem(
            name="restate",
            program="restate-server",
            module="benchmarks.inbox.steps.restate_client",
            interpreter=Path(sys.executable),
            serving=_restate,
        ),
        StepSystem(
            name="dbos",
            program="postgres",
            module="benchmarks.inbox.steps.dbos_units",
            interpreter=_PYTHON,
            serving=_postgres,
            concurrencies=(1, 16, 64),
        ),
        StepSystem(
            name="temporal",
            program="temporal",
            module="benchmarks.inbox.steps.temporal_units",
            interpreter=_PYTHON,
            serving=_temporal,
            concurrencies=(1, 4, 16),
        ),
    )
}
OURS = StepSystem(
    name="headrace",
    program=sys.executable,
    module="benchmarks.inbox.steps.ours",
    interpreter=Path(sys.executable),
    serving=_nothing,
)
