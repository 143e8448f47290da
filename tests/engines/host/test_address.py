"""Where a run looks for an engine host, and when for none."""

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

import pytest

from headrace.engines.host import address
from headrace.engines.host.__main__ import main
from headrace.engines.host.address import HostAddress, default_socket, host_address
from headrace.engines.host.wanted import StoreAddress
from headrace.errors import InvalidInput
from headrace.store.local import LocalStore
from headrace.store.opening import open_store

CPU = {"CUDA_VISIBLE_DEVICES": ""}


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "store")


def test_on_is_this_nodes_host_of_the_store_which_a_run_starts(store: LocalStore) -> None:
    found = host_address("on", store, CPU)
    assert found
    assert found == HostAddress(
        socket_file=default_socket(store),
        store=StoreAddress(url=store.directory.as_uri()),
        is_started=True,
        takes_all=False,
        log=store.node_directory() / "engine_host.log",
    )
    assert found.socket_file.parent.stat().st_mode & 0o777 == 0o700
    assert open_store(found.store.url).uri("a") == store.uri("a")


def test_a_socket_is_a_host_that_somebody_else_starts(store: LocalStore) -> None:
    found = host_address("/run/models.sock", store, CPU)
    assert found
    assert (found.socket_file, found.is_started, found.takes_all) == (Path("/run/models.sock"), False, True)


@pytest.mark.parametrize(
    ("word", "environment"),
    [
        ("off", CPU),
        ("no", CPU),
        ("cpu", {"CUDA_VISIBLE_DEVICES": "0"}),
        ("on", {"CUDA_VISIBLE_DEVICES": "0,MIG-1"}),
        ("on", {"CUDA_VISIBLE_DEVICES": "MIG-1"}),
        ("/run/models.sock", {"CUDA_VISIBLE_DEVICES": "cpu"}),
        ("on", {**CPU, "KUBERNETES_SERVICE_HOST": "10.0.0.1"}),
    ],
    ids=["off", "no", "a GPU, and no word of GPUs", "a GPU and a slice", "a slice of a GPU", "no device", "a pod"],
)
def test_a_run_opens_its_engines_itself(
    store: LocalStore, word: str, environment: Mapping[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(address, "_GPUS", (tmp_path,))
    assert host_address(word, store, environment) is None


@pytest.mark.parametrize("word", ["on", "/run/models.sock"])
@pytest.mark.parametrize("device", ["0", "GPU-0f5e36c8", "0,1"])
def test_a_run_with_gpus_asks_for_its_models_there(
    store: LocalStore, word: str, device: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(address, "_GPUS", (tmp_path,))
    found = host_address(word, store, {"CUDA_VISIBLE_DEVICES": device})
    assert found
    assert found.device == device
    monkeypatch.setattr(address, "_GPUS", (tmp_path / "no-driver",))
    assert host_address(word, store, {"CUDA_VISIBLE_DEVICES": device}) is None, "that one is only simulated"


def test_by_default_runs_without_a_gpu_have_a_host(store: LocalStore) -> None:
    assert host_address("cpu", store, CPU) == host_address("on", store, CPU)


def test_where_a_run_might_take_any_gpu_it_opens_its_engines_itself(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(address, "_GPUS", (tmp_path / "no-driver",))
    assert host_address("on", store, {})
    monkeypatch.setattr(address, "_GPUS", (tmp_path,))
    assert host_address("on", store, {}) is None


def test_stores_have_hosts_of_their_own(store: LocalStore, tmp_path: Path) -> None:
    assert default_socket(store) != default_socket(LocalStore(tmp_path / "other"))


def test_a_directory_that_others_may_enter_is_refused(store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="hr-") as short:
        monkeypatch.setattr(tempfile, "tempdir", short)
        open_to_all = Path(short, f"headrace-{os.getuid()}")
        open_to_all.mkdir()
        open_to_all.chmod(0o755)
        with pytest.raises(InvalidInput, match=f"{open_to_all} must be a directory that only you may enter"):
            host_address("on", store, CPU)
        open_to_all.chmod(0o700)
        assert default_socket(store).parent == open_to_all


@pytest.mark.parametrize("kind", ["a file", "a link to nothing", "a pipe"])
def test_what_is_no_directory_in_its_place_is_refused(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="hr-") as short:
        monkeypatch.setattr(tempfile, "tempdir", short)
        found = Path(short, f"headrace-{os.getuid()}")
        if kind == "a file":
            found.touch(mode=0o600)
        elif kind == "a pipe":
            os.mkfifo(found, 0o600)
        else:
            found.symlink_to("nothing")
        with pytest.raises(InvalidInput, match=f"{found} must be a directory that only you may enter"):
            host_address("on", store, CPU)


@pytest.mark.parametrize(
    ("socket_file", "sentence"),
    [
        (Path("/nowhere/h.sock"), "cannot listen on /nowhere/h.sock: No such file or directory. Name a file in"),
        (Path("/dev/null/h.sock"), "cannot listen on /dev/null/h.sock: Not a directory. Name a file in"),
        (Path("/tmp", "h" * 99), "--socket must be a path of at most 100 bytes, since its models' are longer, got"),
    ],
    ids=["no directory", "a file for a directory", "too long for its models' sockets"],
)
def test_a_host_that_cannot_listen_says_why(
    socket_file: Path, sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(socket_file)
    assert ended.value.code == 2
    assert sentence in " ".join(capsys.readouterr().err.split())
