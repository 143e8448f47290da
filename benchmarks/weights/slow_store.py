"""Weights in a store behind a slow link: what every part of this benchmark is given, and how it starts a client."""

import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.measuring import Child, ChildResult, progress
from benchmarks.parts import Options
from benchmarks.weights.network import Network, Node, running_network

MIB = 1024 * 1024


@dataclass(frozen=True, kw_only=True)
class Given(Options):
    """The command's options."""

    gigabytes: float
    shards: int
    runs: int
    trials: int
    peers: tuple[str, ...]
    models: tuple[Path, ...]
    delay_ms: float
    megabytes_per_second: float


@dataclass(kw_only=True)
class Site:
    """A running store on a network. `environment`: to reach it by the slow way; `direct`: at once."""

    network: Network
    environment: Mapping[str, str]
    direct: Mapping[str, str]
    url: str
    root: Path
    server: Child
    digests: list[str] = field(default_factory=list)

    def start(self, what: str, *, node: Node | None = None, cache: str = "cache", **more: Any) -> Child:
        """A client in a namespace: of the first node, where no other is named."""
        chosen = node or self.network.nodes[0]
        task = {"what": what, "namespace": chosen.namespace, "address": chosen.address, "url": self.url, **more}
        return Child(
            "benchmarks.weights.client", {**task, "cache": str(self.root / cache)}, environment=self.environment
        )

    def run(self, what: str, **more: Any) -> ChildResult:
        return self.start(what, **more).result(seconds_max=600)

    def served_bytes(self) -> int:
        """Bodies of replies that the store has sent so far."""
        self.server.say("count")
        return int(self.server.wait_for("ready")[-1])

    def seal(self, *directories: Path) -> None:
        """Seals and indexes, from the hub itself and by the fast way."""
        for directory in directories:
            progress.print(f"sealing and indexing {directory.name} …")
            task = {
                "what": "seal",
                "namespace": self.network.hub.namespace,
                "address": self.network.hub.address,
                "url": self.url,
                "directory": str(directory),
                "cache": str(self.root / "sealing"),
            }
            child = Child("benchmarks.weights.client", task, environment=self.direct)
            self.digests.append(child.result(seconds_max=600).body["digest"])


@contextmanager
def running_site(
    given: Given, root: Path, *, num_nodes: int = 1, megabytes_per_second: float | None = None
) -> Iterator[Site]:
    with ExitStack() as stack:
        rate = megabytes_per_second or given.megabytes_per_second
        network = stack.enter_context(running_network(num_nodes, megabytes_per_second=rate))
        task = {
            "namespace": network.hub.namespace,
            "address": network.hub.address,
            "directory": str(root / "server"),
            "delay_seconds": given.delay_ms / 1000,
        }
        server = Child("benchmarks.weights.server", task)
        stack.callback(server.end)
        told = json.loads(server.wait_for("ready")[-1])
        yield Site(network=network, root=root, server=server, **told)
