"""Hosts that are network namespaces of this machine: a hub with the store, and nodes with a link of a given rate each.

Needs root, as in a container of one's own. Everything is made in namespaces, and gone with them.
"""

import ctypes
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

HUB_ADDRESS = "10.77.0.1"
_CLONE_NEWNET = 0x40000000


@dataclass(frozen=True, kw_only=True)
class Node:
    """`namespace`: of the kernel; None: this process's own."""

    namespace: str | None
    address: str


@dataclass(frozen=True, kw_only=True)
class Network:
    hub: Node
    nodes: tuple[Node, ...]


@contextmanager
def running_network(num_nodes: int, *, megabytes_per_second: float) -> Iterator[Network]:
    """Each node gets that much from all others together."""
    prefix = f"headrace-{os.getpid()}"
    hub, nodes = f"{prefix}-hub", [f"{prefix}-{number}" for number in range(num_nodes)]
    try:
        for name in (hub, *nodes):
            _ip("netns", "add", name)
            _ip("-n", name, "link", "set", "lo", "up")
        _ip("-n", hub, "link", "add", "br0", "type", "bridge")
        _ip("-n", hub, "addr", "add", f"{HUB_ADDRESS}/24", "dev", "br0")
        _ip("-n", hub, "link", "set", "br0", "up")
        for number, name in enumerate(nodes):
            port = f"port{number}"
            _ip("-n", hub, "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", name)
            _ip("-n", hub, "link", "set", port, "master", "br0")
            _ip("-n", hub, "link", "set", port, "up")
            _ip("-n", name, "addr", "add", f"10.77.0.{number + 2}/24", "dev", "eth0")
            _ip("-n", name, "link", "set", "eth0", "up")
            rate = f"{megabytes_per_second * 8:.0f}mbit"
            limit = ["rate", rate, "burst", "1mb", "latency", "200ms"]
            _run("ip", "netns", "exec", hub, "tc", "qdisc", "add", "dev", port, "root", "tbf", *limit)
        yield Network(
            hub=Node(namespace=hub, address=HUB_ADDRESS),
            nodes=tuple(Node(namespace=name, address=f"10.77.0.{number + 2}") for number, name in enumerate(nodes)),
        )
    finally:
        for name in (hub, *nodes):
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)


def enter(namespace: str | None) -> None:
    """Moves this process there, before it has threads or connections."""
    if namespace is None:
        return
    with Path("/run/netns", namespace).open() as file:
        if ctypes.CDLL(None, use_errno=True).setns(file.fileno(), _CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), f"cannot enter the network namespace {namespace}")


def _ip(*words: str) -> str:
    return _run("ip", *words)


def _run(*command: str) -> str:
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}: {done.stderr.strip()}. This part needs root, and tc's tbf.")
    return done.stdout
