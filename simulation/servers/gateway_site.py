"""A store, a service and its processes, for tests and measurements of the gateway: all real, on loopback, temporary.

Every process is ended by its pid when the block ends. The kernel chooses the ports.
"""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from headrace.clock import SystemClock
from headrace.rollout import states
from headrace.rollout.journal import Journal
from headrace.serving.service import Service, load_service
from headrace.store.local import LocalStore
from headrace.store.objects import ObjectStore
from headrace.version_sets.sets import VersionSet, VersionSets
from simulation.servers.processes import ROOT, server_process

KEY = "sk-of-the-tests-only"
KEY_NAME = "tests"
_START_SECONDS_MAX = 120.0


@dataclass
class GatewayProcess:
    """A running gateway. `records` reads its present log."""

    process: "subprocess.Popen[str]"
    log: Path
    url: str = ""

    @property
    def pid(self) -> int:
        return self.process.pid

    def records(self, kind: str | None = None) -> list[dict[str, Any]]:
        # Line by line, since the last one may be half written.
        lines = self.log.read_text().splitlines(keepends=True) if self.log.exists() else []
        found = [json.loads(line) for line in lines if line.endswith("\n")]
        return [record for record in found if kind in (None, record["kind"])]

    def event(self, name: str) -> dict[str, Any] | None:
        return next((record for record in self.records("gateway") if record["event"] == name), None)

    def wait_for(self, event: str, *, seconds: float = _START_SECONDS_MAX) -> dict[str, Any]:
        """Raises: AssertionError: the gateway ended before that, or did not do it in time."""
        ends = time.monotonic() + seconds
        while time.monotonic() < ends:
            if (found := self.event(event)) is not None:
                return found
            assert self.process.poll() is None, f"The gateway ended with {self.process.returncode}."
            time.sleep(0.02)
        raise AssertionError(f"The gateway was not {event!r} within {seconds:.0f} s: {self.records('gateway')}")

    def terminate(self, *, seconds: float = 60.0) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(seconds)


@dataclass
class Site:
    """A store with one service. `start` starts a gateway on it."""

    directory: Path
    service_file: Path
    service: Service
    # A directory, unless `make` got another store.
    store: Any
    journal: Journal
    keys: Path
    gateways: list[GatewayProcess] = field(default_factory=list)

    @classmethod
    def make(cls, directory: Path, service: Mapping[str, Any], *, store: ObjectStore | None = None) -> "Site":
        """`service`: differences from one role `writer` on the echo engine."""
        body = {"name": "assistant", "roles": {"writer": role()}, "chain": ["writer"], **service}
        directory.mkdir(parents=True, exist_ok=True)
        file = directory / "service.yaml"
        file.write_text(yaml.safe_dump(body))
        keys = directory / "keys"
        keys.write_text(f"{KEY_NAME}:{hashlib.sha256(KEY.encode()).hexdigest()}\n")
        store = store or LocalStore(directory / "store")
        return cls(
            directory=directory,
            service_file=file,
            service=load_service(file),
            store=store,
            journal=Journal(store, body["name"], SystemClock()),
            keys=keys,
        )

    def version_set(self, **roles: Mapping[str, Any]) -> VersionSet:
        """A set of the service's roles with the given changes, kept in the store."""
        body = yaml.safe_load(self.service_file.read_text())
        for name, changes in roles.items():
            body["roles"][name] |= changes
        file = self.directory / "changed.yaml"
        file.write_text(yaml.safe_dump(body))
        version_set = load_service(file).version_set({})
        VersionSets(self.store).put(version_set)
        return version_set

    def append(self, event: str, version_set: VersionSet, **fields: Any) -> None:
        """Appends a journal entry; `fields` beside the set's id."""
        digest = version_set.members[0].weights_digest
        said = {"version_set": version_set.id, "weights_digest": digest, "num_rows": 0, "reason": "said so", **fields}
        self.journal.append(event, said, expected=self.journal.head())

    def initialize(self, version_set: VersionSet | None = None) -> VersionSet:
        version_set = version_set or self.version_set()
        self.append(states.INITIALIZED, version_set)
        return version_set

    def start_candidate(self, version_set: VersionSet, *, weight: float, cap: int | None = None) -> VersionSet:
        self.append(states.STARTED, version_set, step=0, weight=weight, cap=cap)
        return version_set

    def start(
        self,
        *options: str,
        wait: str = "ready",
        seconds: float = _START_SECONDS_MAX,
        num_descriptors: int | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> GatewayProcess:
        """A gateway, once it is `wait`: `listening` or `ready`. `num_descriptors`: its limit."""
        log = self.directory / f"gateway-{len(self.gateways)}.jsonl"
        errors = (self.directory / f"gateway-{len(self.gateways)}.errors").open("w")
        command = [sys.executable, "-m", "headrace.serving.gateway"]
        command += ["--service", str(self.service_file), "--store", self.store.url, "--port", "0"]
        command += ["--api-keys", str(self.keys), "--log", str(log), "--notice-seconds", "0", *options]
        if num_descriptors is not None:
            command = ["sh", "-c", f'ulimit -n {num_descriptors}; exec "$@"', "sh", *command]
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, **(environment or {})},
            stderr=errors,
            text=True,
            start_new_session=True,
        )
        errors.close()
        gateway = GatewayProcess(process=process, log=log)
        self.gateways.append(gateway)
        gateway.url = gateway.wait_for("listening", seconds=seconds)["address"]
        gateway.wait_for(wait, seconds=seconds)
        return gateway

    @contextmanager
    def started(self, *options: str) -> Iterator[GatewayProcess]:
        """A gateway; it ends with the block, as all others of this site do."""
        try:
            yield self.start(*options)
        finally:
            self.close()

    def close(self) -> None:
        for gateway in self.gateways:
            if gateway.process.poll() is None:
                gateway.process.kill()
            gateway.process.wait()


@contextmanager
def running(site: Site) -> Iterator[GatewayProcess]:
    """A gateway with a candidate on trial; it ends with the block."""
    site.initialize()
    changed = {"prompt_template": {"system": "Answer in plain words.", "user": "{text}"}}
    site.start_candidate(site.version_set(writer=changed), weight=0.5)
    with site.started() as gateway:
        yield gateway


def role(**changes: Any) -> dict[str, Any]:
    """A role as in a service file: unregistered, on the echo engine."""
    decoding = {"temperature": 0.7, "top_p": 0.9, "max_new_tokens": 40}
    body = {"model": "tiny", "version": "1", "registered": False, "engine": {"name": "echo"}, "decoding": decoding}
    return body | changes


def http_role(base_url: str, **changes: Any) -> dict[str, Any]:
    """A role on a server."""
    return role(engine={"name": "openai_http", "base_url": base_url, "model": "slow"}, **changes)


@contextmanager
def slow_server(**pace: Any) -> Iterator[str]:
    """A process of `simulation.servers.paced`; yields its base URL."""
    with server_process("simulation.servers.paced", pace) as url:
        yield f"{url}/v1"


def seen(base_url: str) -> dict[str, int]:
    """What a slow server has seen."""
    with urllib.request.urlopen(base_url.removesuffix("/v1") + "/seen") as response:
        return json.load(response)
