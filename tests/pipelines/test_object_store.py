import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from headrace.errors import InvalidInput
from headrace.store.opening import open_store
from pipelines import object_store
from resources.settings import settings_from_environment
from tests.waiting import eventually


@pytest.mark.process
@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGKILL])
def test_the_servers_variables_open_the_store_and_its_end_takes_all_along(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sign: signal.Signals
) -> None:
    command = [sys.executable, "-m", "pipelines.object_store", "--directory", str(tmp_path / "server")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout
        for line in process.stdout:
            if not line.startswith("export "):
                break
            name, value = line.removeprefix("export ").strip().split("=", 1)
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("HEADRACE_CACHE", str(tmp_path / "cache"))
        children = psutil.Process(process.pid).children(recursive=True)
        assert children
        assert settings_from_environment().open_store().create("a/b", b"1")
        assert open_store(os.environ["HEADRACE_STORE"]).read("a/b") == b"1"
        listening = {one.laddr.ip for child in children for one in child.net_connections() if one.status == "LISTEN"}
        assert listening == {"127.0.0.1"}
    finally:
        process.send_signal(sign)
        process.wait()
    eventually(
        lambda: not any(child.is_running() and child.status() != psutil.STATUS_ZOMBIE for child in children),
        "all of the server's processes end",
    )


def test_the_store_may_be_a_directory_or_a_bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HEADRACE_STORE", "HEADRACE_CACHE", "HEADRACE_CACHE_BYTES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HEADRACE_HOME", str(tmp_path))
    settings = settings_from_environment()
    assert settings.store_url == str(tmp_path / "store")
    assert (settings.cache, settings.cache_bytes) == (tmp_path / "cache", 20 * 1000**3)
    monkeypatch.setenv("HEADRACE_STORE", "s3://bucket/prefix")
    monkeypatch.setenv("HEADRACE_CACHE_BYTES", "5000000000")
    settings = settings_from_environment()
    assert settings.open_store().url == "s3://bucket/prefix"
    assert settings.cache_bytes == 5_000_000_000
    monkeypatch.setenv("HEADRACE_STORE", "relative/store")
    assert settings_from_environment().store_url == str(Path.cwd() / "relative/store")
    monkeypatch.setenv("HEADRACE_CACHE_BYTES", "20 GB")
    with pytest.raises(
        InvalidInput, match="HEADRACE_CACHE_BYTES must be a positive whole number of bytes, got '20 GB'"
    ):
        settings_from_environment()


@pytest.mark.process
def test_a_server_whose_port_was_taken_meanwhile_starts_on_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        found = [taken.getsockname()[1], *object_store.free_ports(7)]
        free = object_store.free_ports

        def free_ports(count: int) -> list[int]:
            monkeypatch.setattr(object_store, "free_ports", free)
            return found

        monkeypatch.setattr(object_store, "free_ports", free_ports)
        with object_store.running_object_store(tmp_path / "server") as server:
            assert not server.endpoint.endswith(f":{found[0]}")
