"""Two hosts on one machine: network namespaces that only reach each other, with an agent each."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.waiting import eventually


@dataclass
class NetworkHost:
    """A namespace, its address, and the agent that runs in it."""

    name: str
    address: str
    store_url: str
    work: Path
    log: Path = field(init=False)
    _agent: "subprocess.Popen[bytes] | None" = None

    def __post_init__(self) -> None:
        self.work.mkdir(parents=True, exist_ok=True)
        self.log = self.work / "agent.log"

    def start_agent(self) -> None:
        """Returns once it waits for gangs: what was asked before, it passes over."""
        command = [sys.executable, "-m", "headrace.training.host_agent", "--name", self.name]
        command += ["--address", self.address, "--work", str(self.work / "gangs"), "--store", self.store_url]
        size = self.log.stat().st_size if self.log.exists() else 0
        with self.log.open("ab") as output:
            self._agent = subprocess.Popen(
                ["ip", "netns", "exec", self.name, *command],
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, "HEADRACE_STORE": "", "PYTHONUNBUFFERED": "1"},
                start_new_session=True,
            )
        eventually(lambda: b"waits for gangs" in self.log.read_bytes()[size:], self.log.read_text())

    def pids(self) -> list[int]:
        return [int(pid) for pid in _ip("netns", "pids", self.name).split()]

    def lose_power(self) -> None:
        """Every process of the host is gone at once, and so is its network."""
        _ip("-n", self.name, "link", "set", "gang0", "down")
        for pid in self.pids():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if self._agent:
            self._agent.wait()

    def plug_in(self) -> None:
        _ip("-n", self.name, "link", "set", "gang0", "up")


@contextmanager
def two_hosts(directory: Path, store_url: str) -> Iterator[tuple[NetworkHost, NetworkHost]]:
    """Skips the test where namespaces cannot be made, with the reason."""
    names = [f"headrace-{os.getpid()}-{letter}" for letter in "ab"]
    made = []
    try:
        for name in names:
            try:
                _ip("netns", "add", name)
            except (OSError, subprocess.CalledProcessError) as error:
                pytest.skip(f"needs network namespaces (root, iproute2): {error}")
            made.append(name)
        first, second = (("netns", name) for name in names)
        _ip("link", "add", "gang0", *first, "type", "veth", "peer", "name", "gang0", *second)
        hosts = []
        for number, name in enumerate(names, start=1):
            _ip("-n", name, "addr", "add", f"10.77.0.{number}/24", "dev", "gang0")
            for link in ("lo", "gang0"):
                _ip("-n", name, "link", "set", link, "up")
            hosts.append(NetworkHost(name, f"10.77.0.{number}", store_url, directory / f"host-{number}"))
        yield hosts[0], hosts[1]
    finally:
        for name in made:
            with suppress(subprocess.CalledProcessError):
                for pid in _ip("netns", "pids", name).split():
                    with suppress(ProcessLookupError):
                        os.kill(int(pid), signal.SIGKILL)
                _ip("netns", "del", name)


def _ip(*arguments: str) -> str:
    return subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True).stdout
