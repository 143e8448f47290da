"""The systems that take events: how each is started, so that an event is on the disk before it is acknowledged.

| system | durable by |
|---|---|
| headrace | the gateway's log, SQLite with a write-ahead log, `synchronous=FULL`; windows are sealed meanwhile |
| jetstream | `sync_interval: always`, a file stream; several events as one atomic batch (server 2.12 or later) |
| redis | a stream, `appendonly yes`, `appendfsync always`; several events as one pipeline |
"""

import http.client
import json
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import yaml

from pipelines.object_store import free_ports
from simulation.servers.gateway_site import role
from simulation.servers.processes import cpu_seconds, end_group

_START_SECONDS_MAX = 60.0


@dataclass(frozen=True, kw_only=True)
class System:
    """`program` is looked for on the path and in the directories given with --bin. `is_ready`: beyond listening.

    `shapes`: connections and events of a request, singly and in requests of many; a peer's best one counts.
    """

    name: str
    program: str
    command: Callable[[Path, int], list[str]]
    shapes: tuple[tuple[int, int], ...]
    is_ready: Callable[[int], bool] | None = None


def _headrace(directory: Path, port: int) -> list[str]:
    service = {"name": "inbox", "roles": {"writer": role()}, "chain": ["writer"]}
    (directory / "service.yaml").write_text(yaml.safe_dump(service))
    campaigns = directory / "campaigns"
    if not campaigns.exists():
        campaigns.mkdir()
        campaign = {"name": "inbox", "prompts": {"inbox": {"window_seconds": 60, "rows_max": 10_000}}}
        (campaigns / "inbox.yaml").write_text(yaml.safe_dump(campaign))
    options = ["--service", str(directory / "service.yaml"), "--store", str(directory / "store"), "--initialize"]
    options += ["--inbox", str(campaigns), "--inbox-log", str(directory / "log")]
    return ["-m", "headrace.serving.gateway", *options, "--port", str(port), "--log", str(directory / "gateway.jsonl")]


def _gateway_is_ready(port: int) -> bool:
    """It listens before: its service is loaded while it takes events, and is no part of what they cost."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("GET", "/readyz")
    status = connection.getresponse().status
    connection.close()
    return status == http.HTTPStatus.OK


def _jetstream(directory: Path, port: int) -> list[str]:
    configuration = directory / "nats.conf"
    configuration.write_text(
        f'listen: "127.0.0.1:{port}"\njetstream {{ store_dir: "{directory}/js", sync_interval: always }}\n'
    )
    return ["-c", str(configuration)]


def _redis(directory: Path, port: int) -> list[str]:
    options = {"port": port, "bind": "127.0.0.1", "dir": directory, "appendonly": "yes", "appendfsync": "always"}
    return [word for name, value in options.items() for word in (f"--{name}", str(value))] + ["--save", ""]


# JetStream takes at most 50 batches of a stream at once.
PEERS = {
    system.name: system
    for system in (
        System(
            name="jetstream",
            program="nats-server",
            command=_jetstream,
            shapes=((64, 1), (1, 1_000), (8, 1_000), (48, 1_000)),
        ),
        System(
            name="redis",
            program="redis-server",
            command=_redis,
            shapes=((64, 1), (8, 250), (8, 1_000), (64, 1_000)),
        ),
    )
}
OURS = System(
    name="headrace",
    program=sys.executable,
    command=_headrace,
    shapes=((64, 1), (64, 1_000)),
    is_ready=_gateway_is_ready,
)


@dataclass
class Server:
    """A running system."""

    port: int
    process: "subprocess.Popen[bytes]"

    def cpu_seconds(self) -> float:
        return cpu_seconds(self.process.pid)


@contextmanager
def serving(system: System, program: str, directory: Path, *, campaign: str | None = None) -> Iterator[Server]:
    """A new server with nothing in it; it ends with the block.

    Args: campaign: the file of ours, instead of one with short windows.
    """
    directory.mkdir()
    if campaign is not None:
        (directory / "campaigns").mkdir()
        (directory / "campaigns" / "inbox.yaml").write_text(campaign)
    (port,) = free_ports(1)
    with (directory / "server.log").open("wb") as log:
        process = subprocess.Popen(
            [program, *system.command(directory, port)], stdout=log, stderr=log, start_new_session=True
        )
    try:
        wait_for(port, process, directory, system.is_ready)
        if system.name == "jetstream":
            _create_stream(port)
        yield Server(port, process)
    finally:
        end_group(process)


def wait_for(
    port: int, process: "subprocess.Popen[bytes]", directory: Path, is_ready: Callable[[int], bool] | None = None
) -> None:
    """Until somebody listens there, and is ready. Raises: RuntimeError: the process ended, or did not in time."""
    ends = time.monotonic() + _START_SECONDS_MAX
    while time.monotonic() < ends:
        if process.poll() is not None:
            break
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            if not is_ready or is_ready(port):
                return
        except OSError:
            pass
        time.sleep(0.05)
    raise RuntimeError(f"{directory.name} did not start: {(directory / 'server.log').read_text()[-2000:]}")


def _create_stream(port: int) -> None:
    stream = {"name": "EVENTS", "subjects": ["events.>"], "storage": "file", "allow_atomic": True}
    stream |= {"retention": "limits", "discard": "old", "num_replicas": 1}
    body = json.dumps(stream).encode()
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        ask = b'CONNECT {"verbose":false}\r\nSUB made 1\r\nPUB $JS.API.STREAM.CREATE.EVENTS made %d\r\n%s\r\n'
        connection.sendall(ask % (len(body), body))
        came = b""
        while b"stream_create_response" not in came or not came.endswith(b"\r\n"):
            came += connection.recv(65_536)
    if b'"error"' in came or b'"allow_atomic":true' not in came:
        raise RuntimeError(f"JetStream made no stream with atomic batches: {came!r}")
