"""The routers that are compared: how each is started, at the settings that gave it its best p99 here.

All get the same hop: client → router process → replicas over loopback HTTP. All know the four addresses and a path
that tells health; a router that can limit turns at a replica is told the number of slots, which ours has to find out.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from benchmarks.dispatch.replicas import end_group, free_ports

_ENVIRONMENT = {
    # litellm reads a list of prices from the network, and wants a key of its own for what only listens here.
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY": "true",
    "LITELLM_LOG": "ERROR",
}
_HAPROXY = """
global
    maxconn 4096
    log /dev/null local0
defaults
    mode http
    timeout connect 300ms
    timeout client 60s
    timeout server {silent_ms}ms
    timeout queue 30s
    timeout check 300ms
    option redispatch 1
    retries 4
    retry-on all-retryable-errors
    option httpchk GET /health
frontend clients
    bind 127.0.0.1:{port}
    default_backend replicas
backend replicas
    balance leastconn
    default-server check inter 200ms fastinter 100ms downinter 200ms fall 2 rise 2 {limit}
{servers}
"""

_NGINX = """
daemon off;
worker_processes 1;
pid {directory}/nginx.pid;
error_log {directory}/error.log crit;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    upstream replicas {{
        zone replicas 64k;
        least_conn;
{servers}
        keepalive 64;
    }}
    server {{
        listen 127.0.0.1:{port};
        location / {{
            proxy_pass http://replicas;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_connect_timeout 300ms;
            proxy_read_timeout {silent_ms}ms;
            proxy_next_upstream error timeout http_500 http_502 http_503 http_504 non_idempotent;
            proxy_next_upstream_tries 4;
        }}
    }}
}}
"""


@dataclass(frozen=True, kw_only=True)
class Router:
    """One system. `program` is looked for on the path and in the directories given with --bin."""

    name: str
    program: str
    command: Callable[[str, Path, int, Sequence[str]], list[str]]
    health_path: str
    # How ours is started; a peer's own words are its best settings.
    settings: str


class Running:
    """A router's process, and what it cost."""

    def __init__(self, router: Router, program: str, directory: Path, port: int, replicas: Sequence[str]) -> None:
        self.name = router.name
        self.url = f"http://127.0.0.1:{port}"
        self._log = (directory / f"{router.name}.log").open("wb")
        self.process = subprocess.Popen(
            router.command(program, directory, port, replicas),
            stdout=self._log,
            stderr=self._log,
            start_new_session=True,
            env={**os.environ, **_ENVIRONMENT},
        )

    def cpu_seconds(self) -> float:
        """User and system time of the process and those it started."""
        top = psutil.Process(self.process.pid)
        times = [one.cpu_times() for one in (top, *top.children(recursive=True))]
        return sum(time.user + time.system for time in times)

    def close(self) -> None:
        end_group(self.process)
        self._log.close()


def find_program(router: Router, directories: Sequence[Path]) -> str | None:
    path = os.pathsep.join([*(str(directory) for directory in directories), os.environ.get("PATH", ""), "/usr/sbin"])
    return shutil.which(router.program, path=path)


def _ours(program: str, directory: Path, port: int, replicas: Sequence[str]) -> list[str]:
    urls = [f"{url}/v1" for url in replicas]
    return [program, "-m", "benchmarks.dispatch.ours", json.dumps({"port": port, "base_urls": urls})]


def _haproxy(silent_ms: int, limit: str) -> Callable[[str, Path, int, Sequence[str]], list[str]]:
    def command(program: str, directory: Path, port: int, replicas: Sequence[str]) -> list[str]:
        servers = "\n".join(f"    server r{index} {_address(url)}" for index, url in enumerate(replicas))
        file = directory / "haproxy.cfg"
        file.write_text(_HAPROXY.format(port=port, servers=servers, silent_ms=silent_ms, limit=limit))
        return [program, "-db", "-f", str(file)]

    return command


def _nginx(silent_ms: int) -> Callable[[str, Path, int, Sequence[str]], list[str]]:
    def command(program: str, directory: Path, port: int, replicas: Sequence[str]) -> list[str]:
        servers = "\n".join(f"        server {_address(url)} max_fails=1 fail_timeout=1s;" for url in replicas)
        file = directory / "nginx.conf"
        file.write_text(_NGINX.format(port=port, servers=servers, directory=directory, silent_ms=silent_ms))
        return [program, "-p", str(directory), "-c", str(file)]

    return command


def _sglang(policy: str, seconds: int) -> Callable[[str, Path, int, Sequence[str]], list[str]]:
    def command(program: str, directory: Path, port: int, replicas: Sequence[str]) -> list[str]:
        settings = {
            "host": "127.0.0.1",
            "port": port,
            "policy": policy,
            "request-timeout-secs": seconds,
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
        return [program, "launch", *flags, "--worker-urls", *replicas]

    return command


def _litellm(strategy: str, seconds: float) -> Callable[[str, Path, int, Sequence[str]], list[str]]:
    def command(program: str, directory: Path, port: int, replicas: Sequence[str]) -> list[str]:
        config = {
            "model_list": [
                {
                    "model_name": "served",
                    "litellm_params": {
                        "model": "openai/served",
                        "api_base": f"{url}/v1",
                        "api_key": "none",
                        "timeout": seconds,
                        "max_retries": 0,
                    },
                }
                for url in replicas
            ],
            "router_settings": {
                "routing_strategy": strategy,
                "num_retries": 4,
                "retry_after": 0,
                "allowed_fails": 1,
                "cooldown_time": 2,
                "routing_strategy_args": {"ttl": 30} if strategy == "latency-based-routing" else {},
            },
            "litellm_settings": {"telemetry": False, "request_timeout": seconds},
        }
        file = directory / "litellm.yaml"
        file.write_text(json.dumps(config))  # JSON is YAML
        return [program, "--config", str(file), "--host", "127.0.0.1", "--port", str(port), "--num_workers", "1"]

    return command


def _address(url: str) -> str:
    return url.removeprefix("http://")


OURS = Router(
    name="headrace", program=sys.executable, command=_ours, health_path="/healthz", settings="as in production"
)
PEERS: dict[str, Router] = {
    router.name: router
    for router in (
        Router(
            name="haproxy",
            program="haproxy",
            command=_haproxy(2000, "maxconn 8"),
            health_path="/health",
            settings="leastconn, 8 at a replica, checks every 0.2 s, 4 retries, silent for 2 s",
        ),
        Router(
            name="nginx",
            program="nginx",
            command=_nginx(2000),
            health_path="/health",
            settings="least_conn, next upstream on error and after 2 s",
        ),
        Router(
            name="sglang-router",
            program="sglang-router",
            command=_sglang("power_of_two", 3),
            health_path="/health",
            settings="power_of_two, checks every second, 5 retries, 3 s",
        ),
        Router(
            name="litellm",
            program="litellm",
            command=_litellm("latency-based-routing", 6.0),
            health_path="/health/liveliness",
            settings="latency-based-routing, 4 retries, 6 s",
        ),
    )
}
# Other settings that were tried; `--peers NAME` takes them too.
VARIANTS: dict[str, Router] = {
    router.name: router
    for router in (
        *(
            Router(
                name=f"haproxy-{ms}{'-free' if not limit else ''}",
                program="haproxy",
                command=_haproxy(ms, limit),
                health_path="/health",
                settings=f"silent for {ms} ms {limit}",
            )
            for ms in (1000, 1300, 1600, 2000, 3000, 6000, 12_000)
            for limit in ("maxconn 8", "")
        ),
        *(
            Router(
                name=f"nginx-{ms}",
                program="nginx",
                command=_nginx(ms),
                health_path="/health",
                settings=f"silent for {ms} ms",
            )
            for ms in (1300, 1600, 2000, 3000, 12_000)
        ),
        *(
            Router(
                name=f"sglang-{policy}-{seconds}",
                program="sglang-router",
                command=_sglang(policy, seconds),
                health_path="/health",
                settings=f"{policy}, {seconds} s",
            )
            for policy in ("power_of_two", "cache_aware", "round_robin")
            for seconds in (2, 3, 6, 12)
        ),
        *(
            Router(
                name=f"litellm-{strategy}-{seconds}",
                program="litellm",
                command=_litellm(strategy, seconds),
                health_path="/health/liveliness",
                settings=f"{strategy}, {seconds} s",
            )
            for strategy in ("latency-based-routing", "least-busy", "simple-shuffle")
            for seconds in (2, 3, 6)
        ),
    )
}
