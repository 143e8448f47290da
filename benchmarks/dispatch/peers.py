"""The routers that are compared: how each is started, at the settings that gave it its best p99 here.

All get the same hop: client → router process → replicas over loopback HTTP. All know the four addresses and a path
that tells health; a router that can limit turns at a replica is told the number of slots, which ours has to find out.
Which other settings were tried stands in docs/decisions/0011.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipelines.object_store import free_ports
from simulation.servers.processes import cpu_seconds, end_group

_HERE = Path(__file__).parent
_ENVIRONMENT = {
    # litellm reads a list of prices from the network, and wants a key of its own for what only listens here.
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY": "true",
    "LITELLM_LOG": "ERROR",
}


@dataclass(frozen=True, kw_only=True)
class Router:
    """One system. `program` is looked for on the path and in the directories given with --bin.

    `command`: of the directory for its files, its port, its replicas' URLs, and after how many silent seconds it gives
    a replica up. `settings`: in the router's own words. `silent_seconds`: None: it finds that out by itself, or has
    other means. `needs_turns`: it answers before it has accepted its replicas, which only a turn tells.
    """

    name: str
    program: str
    command: Callable[[Path, int, Sequence[str], float], list[str]]
    settings: str
    health_path: str = "/health"
    silent_seconds: float | None = None
    needs_turns: bool = False

    @property
    def described(self) -> str:
        return self.settings if self.silent_seconds is None else f"{self.settings} after {self.silent_seconds:g} s"


class Running:
    """A router's process, and what it cost."""

    def __init__(self, router: Router, program: str, directory: Path, port: int, replicas: Sequence[str]) -> None:
        self.name = router.name
        self.url = f"http://127.0.0.1:{port}"
        self.log = directory / f"{router.name}.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [program, *router.command(directory, port, replicas, router.silent_seconds or 0.0)],
                stdout=log,
                stderr=log,
                start_new_session=True,
                env={**os.environ, **_ENVIRONMENT},
            )

    def cpu_seconds(self) -> float:
        return cpu_seconds(self.process.pid)

    def close(self) -> None:
        end_group(self.process)


def _ours(directory: Path, port: int, replicas: Sequence[str], silent_seconds: float) -> list[str]:
    urls = [f"{url}/v1" for url in replicas]
    return ["-m", "benchmarks.dispatch.ours", json.dumps({"port": port, "base_urls": urls})]


def _haproxy(directory: Path, port: int, replicas: Sequence[str], silent_seconds: float) -> list[str]:
    servers = "\n".join(f"    server r{index} {_address(url)}" for index, url in enumerate(replicas))
    return ["-db", "-f", _filled_in("haproxy.cfg", directory, port, servers, silent_seconds)]


def _nginx(directory: Path, port: int, replicas: Sequence[str], silent_seconds: float) -> list[str]:
    servers = "\n".join(f"        server {_address(url)} max_fails=1 fail_timeout=1s;" for url in replicas)
    return ["-p", str(directory), "-c", _filled_in("nginx.conf", directory, port, servers, silent_seconds)]


def _filled_in(name: str, directory: Path, port: int, servers: str, silent_seconds: float) -> str:
    file = directory / name
    values = {"port": port, "servers": servers, "directory": directory, "silent_ms": round(1000 * silent_seconds)}
    file.write_text((_HERE / name).read_text().format(**values))
    return str(file)


def _address(url: str) -> str:
    return url.removeprefix("http://")


def _sglang(directory: Path, port: int, replicas: Sequence[str], silent_seconds: float) -> list[str]:
    settings = {
        "host": "127.0.0.1",
        "port": port,
        "policy": "power_of_two",
        "request-timeout-secs": 3,
        "retry-max-retries": 5,
        "retry-initial-backoff-ms": 10,
        "retry-max-backoff-ms": 100,
        "cb-failure-threshold": 2,
        "cb-success-threshold": 1,
        "cb-timeout-duration-secs": 1,
        "health-check-interval-secs": 1,
        "health-check-timeout-secs": 1,
        "health-failure-threshold": 1,
        "health-success-threshold": 1,
        "worker-startup-check-interval": 1,
        "log-level": "error",
        "prometheus-port": free_ports(1)[0],
    }
    flags = [word for name, value in settings.items() for word in (f"--{name}", str(value))]
    return ["launch", *flags, "--worker-urls", *replicas]


def _litellm(directory: Path, port: int, replicas: Sequence[str], silent_seconds: float) -> list[str]:
    settings = {"model": "openai/served", "api_key": "none", "timeout": 6.0, "max_retries": 0}
    config = {
        "model_list": [
            {"model_name": "served", "litellm_params": {**settings, "api_base": f"{url}/v1"}} for url in replicas
        ],
        "router_settings": {
            "routing_strategy": "latency-based-routing",
            "num_retries": 4,
            "retry_after": 0,
            "allowed_fails": 1,
            "cooldown_time": 2,
            "routing_strategy_args": {"ttl": 30},
        },
        "litellm_settings": {"telemetry": False, "request_timeout": 6.0},
    }
    file = directory / "litellm.yaml"
    file.write_text(json.dumps(config))  # JSON is YAML
    return ["--config", str(file), "--host", "127.0.0.1", "--port", str(port), "--num_workers", "1"]


OURS = Router(
    name="headrace", program=sys.executable, command=_ours, settings="as in production", health_path="/healthz"
)
PEERS: dict[str, Router] = {
    router.name: router
    for router in (
        Router(
            name="haproxy",
            program="haproxy",
            command=_haproxy,
            settings="leastconn, 8 at a replica, checks every 0.2 s, 4 retries, another replica",
            silent_seconds=2.0,
        ),
        Router(
            name="nginx",
            program="nginx",
            command=_nginx,
            settings="least_conn, next upstream on error and",
            silent_seconds=2.0,
        ),
        Router(
            name="sglang-router",
            program="sglang-router",
            command=_sglang,
            settings="power_of_two, checks every second, 5 retries, 3 s",
            needs_turns=True,
        ),
        Router(
            name="litellm",
            program="litellm",
            command=_litellm,
            settings="latency-based-routing, 4 retries, 6 s",
            health_path="/health/liveliness",
            needs_turns=True,
        ),
    )
}
