"""What others give: two MLflow aliases switched under readers, and a composed Ray Serve app upgraded in place.

Both are used as their documentation has it: a model by alias, `models:/NAME@ALIAS`; a composed app by running the
new one under the same name. A pair of two versions is counted as mixed.
"""

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from pathlib import Path
from typing import Any

from benchmarks.measuring import print_table, progress, rounded
from simulation.servers.processes import end_group, free_ports

_MODELS = ("writer", "painter")
_SWITCH_SECONDS = 6.0
_NUM_READERS = 3
_START_SECONDS_MAX = 90.0
_RAY_SCRIPT = Path(__file__).with_name("ray_app.py")


def compare(ray_python: Path | None) -> dict[str, Any]:
    """Shares of mixed pairs by peer; `skipped` with a sentence where a peer is not installed."""
    with tempfile.TemporaryDirectory() as directory:
        found = {"mlflow_aliases": mlflow_aliases(Path(directory)), "ray_serve": ray_serve(ray_python)}
    rows = [
        [name, *(str(one.get(key, "")) for key in ("reads", "mixed", "mixed_share", "failed"))]
        for name, one in found.items()
    ]
    notes = [f"{name}: {one['skipped']}" for name, one in found.items() if "skipped" in one]
    if "dead_server_s" in found["mlflow_aliases"]:
        notes.append(f"MLflow's alias with its server dead: {found['mlflow_aliases']['dead_server']}")
    print_table("Peers: two models of one unit, switched", ["peer", "reads", "mixed", "share", "failed"], rows)
    for note in notes:
        print(note)
    return found


def mlflow_aliases(directory: Path) -> dict[str, Any]:
    """Readers ask for two aliases, one after the other, while a writer moves both from version to version."""
    try:
        from mlflow import MlflowClient
    except ImportError:
        return {"skipped": "mlflow is not installed; `pip install headrace[train]`."}
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    progress.print("MLflow aliases, switched under readers")
    server, uri = _mlflow_server(directory)
    try:
        client = MlflowClient(tracking_uri=uri, registry_uri=uri)
        for model in _MODELS:
            client.create_registered_model(model)
            for version in (1, 2):
                client.create_model_version(model, source=f"s3://models/{model}/{version}")
            client.set_registered_model_alias(model, "champion", "1")
        pairs: list[tuple[str, str]] = []
        ended = threading.Event()
        readers = [threading.Thread(target=_read_pairs, args=(uri, pairs, ended)) for _ in range(_NUM_READERS)]
        for reader in readers:
            reader.start()
        ends, switches = time.monotonic() + _SWITCH_SECONDS, 0
        while time.monotonic() < ends:
            switches += 1
            for model in _MODELS:
                client.set_registered_model_alias(model, "champion", str(1 + switches % 2))
            time.sleep(0.25)
        ended.set()
        for reader in readers:
            reader.join()
    finally:
        end_group(server)
    mixed = sum(first != second for first, second in pairs)
    dead = _dead_server(uri)
    return {
        "reads": len(pairs),
        "mixed": mixed,
        "mixed_share": rounded(mixed / max(len(pairs), 1)),
        "switches": switches,
        **dead,
    }


def ray_serve(python: Path | None) -> dict[str, Any]:
    """A composed app of two deployments under load while its next version is run under the same name."""
    interpreter = str(python or sys.executable)
    probe = subprocess.run([interpreter, "-c", "import ray.serve"], capture_output=True, text=True, check=False)
    if probe.returncode:
        return {"skipped": "ray[serve] is not installed; make an environment with it and pass --ray-python."}
    progress.print("Ray Serve, upgraded in place under load")
    done = subprocess.run(
        [interpreter, str(_RAY_SCRIPT)],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
        env={**os.environ, "RAY_USAGE_STATS_ENABLED": "0", "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0"},
    )
    if done.returncode:
        return {"skipped": f"the Ray Serve app failed: {done.stderr.strip().splitlines()[-1:]}"}
    # Ray's own processes write after it.
    body = json.loads(next(line for line in done.stdout.splitlines() if line.startswith('{"reads"')))
    return {**body, "mixed_share": rounded(body["mixed"] / max(body["reads"], 1))}


def _read_pairs(uri: str, pairs: list[tuple[str, str]], ended: threading.Event) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=uri, registry_uri=uri)
    while not ended.is_set():
        first, second = (client.get_model_version_by_alias(model, "champion").version for model in _MODELS)
        pairs.append((str(first), str(second)))


def _dead_server(uri: str) -> dict[str, Any]:
    """What a reader of an alias gets, and after how long, when the server is gone (one retry, as set above)."""
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    client, began = MlflowClient(tracking_uri=uri, registry_uri=uri), time.monotonic()
    try:
        client.get_model_version_by_alias(_MODELS[0], "champion")
    except MlflowException as error:
        seconds = time.monotonic() - began
        said = f"{type(error).__name__} after {seconds:.1f} s with one retry; every unit that needs it fails"
        return {"dead_server_s": rounded(seconds), "dead_server": said}
    return {"dead_server": "answered"}


def _mlflow_server(directory: Path) -> tuple[subprocess.Popen[bytes], str]:
    (port,) = free_ports(1)
    command = [sys.executable, "-m", "mlflow", "server", "--workers", "1", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--backend-store-uri", f"sqlite:///{directory}/mlflow.db"]
    with (directory / "mlflow.log").open("wb") as log:
        server = subprocess.Popen(command, cwd=directory, stdout=log, stderr=log, start_new_session=True)
    ends = time.monotonic() + _START_SECONDS_MAX
    while time.monotonic() < ends and server.poll() is None:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2):
                return server, f"http://127.0.0.1:{port}"
        except OSError:
            time.sleep(0.2)
    end_group(server)
    raise RuntimeError(f"The MLflow server did not start: {(directory / 'mlflow.log').read_text()[-1000:]}")
