import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from headrace.errors import InvalidInput, RegistryUnavailable
from headrace.registry.mlflow_models import ModelRegistry
from tests.registry.builders import make_registry


@pytest.fixture
def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@pytest.fixture
def registry(mlflow_directory: Path) -> ModelRegistry:
    return make_registry(mlflow_directory)


def history(registry: ModelRegistry, run_id: str, metric: str) -> list[tuple[int, float]]:
    return sorted(
        (point.step, point.value) for point in registry.connection.client().get_metric_history(run_id, metric)
    )


def test_a_training_has_one_run_whoever_asks_and_how_often(registry: ModelRegistry, mlflow_directory: Path) -> None:
    first = registry.ensure_run("training-1", {"steps": 60})
    assert registry.ensure_run("training-1", {"steps": 60}) == first
    assert make_registry(mlflow_directory).ensure_run("training-1", {"steps": 60}) == first
    assert registry.ensure_run("training-2", {"steps": 60}) != first


def test_a_resumed_training_adds_parameters_and_leaves_the_old_ones(registry: ModelRegistry) -> None:
    run_id = registry.ensure_run("training-3", {"steps": 60, "ranks": 2})
    registry.finish_run(run_id, failed=True)
    registry.ensure_run("training-3", {"steps": 60, "ranks": 4, "resumed": True})
    run = registry.connection.client().get_run(run_id)
    assert run.data.params == {"steps": "60", "ranks": "2", "resumed": "True"}
    assert run.info.status == "RUNNING"


def test_a_curve_logged_again_has_no_step_twice(registry: ModelRegistry, mlflow_directory: Path) -> None:
    run_id = registry.ensure_run("training-4", {})
    rows = [{"step": step, "loss": 4.0 - step / 10, "tokens_per_second": 900.0} for step in range(6)]
    del rows[1]["loss"]  # a loss that was no number
    assert registry.log_curve(run_id, rows[:4]) == 4
    assert registry.log_curve(run_id, rows[:4]) == 0
    # A process that knows nothing of what the killed one had logged.
    assert make_registry(mlflow_directory).log_curve(run_id, rows) == 2
    assert history(registry, run_id, "loss") == [(row["step"], row["loss"]) for row in rows if "loss" in row]
    assert history(registry, run_id, "tokens_per_second") == [(row["step"], 900.0) for row in rows]


def test_a_curve_longer_than_one_batch_arrives_whole(registry: ModelRegistry) -> None:
    run_id = registry.ensure_run("training-5", {})
    rows = [{"step": step, "loss": 1.0, "learning_rate": 0.1, "tokens_per_second": 9.0} for step in range(700)]
    assert registry.log_curve(run_id, rows) == 700
    assert len(history(registry, run_id, "learning_rate")) == 700


def test_figures_lie_beside_the_run(registry: ModelRegistry, tmp_path: Path) -> None:
    run_id = registry.ensure_run("training-6", {})
    registry.log_figure(run_id, "curves/loss.svg", b"<svg/>")
    registry.log_metrics(run_id, {"heldout_loss": 3.2})
    downloaded = registry.connection.client().download_artifacts(run_id, "curves/loss.svg", str(tmp_path))
    assert Path(downloaded).read_bytes() == b"<svg/>"
    assert not Path("mlruns").exists()


def test_a_figure_that_is_no_picture_is_refused(registry: ModelRegistry) -> None:
    with pytest.raises(InvalidInput, match=r"must end in \.png or \.svg, got 'loss\.txt'"):
        registry.log_figure("run", "loss.txt", b"")


def test_the_same_weights_are_one_version(registry: ModelRegistry, mlflow_directory: Path) -> None:
    first = registry.register("one", "d1", "file:///w/d1", "", {"recipe": "define"})
    again = make_registry(mlflow_directory).register("one", "d1", "file:///w/d1", "", {"recipe": "define", "zero": "2"})
    other = registry.register("one", "d2", "file:///w/d2", "", {})
    assert (first.version, again.version, other.version) == ("1", "1", "2")
    assert again.registered_at == first.registered_at
    tags = registry.connection.client().get_model_version("one", "1").tags
    assert (tags["recipe"], tags["zero"], tags["headrace.weights_digest"]) == ("define", "2", "d1")
    assert registry.find_by_digest("one", "d2") == "2"
    assert registry.find_by_digest("one", "d3") is None


def test_writers_that_race_to_register_agree_on_one_version(mlflow_directory: Path) -> None:
    registries = [make_registry(mlflow_directory) for _ in range(4)]
    for registry in registries:
        registry.find_by_digest("raced", "d1")
    barrier, versions = threading.Barrier(4), []

    def write(registry: ModelRegistry) -> None:
        barrier.wait()
        versions.append(registry.register("raced", "d1", "file:///w/d1", "", {}).version)

    threads = [threading.Thread(target=write, args=(registry,)) for registry in registries]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(versions) == 4
    assert len(set(versions)) == 1
    found = registries[0].connection.client().search_model_versions("name = 'raced'")
    assert [str(version.version) for version in found] == versions[:1]


def test_an_alias_is_set_moved_and_removed(registry: ModelRegistry) -> None:
    for digest in ("d1", "d2"):
        registry.register("aliased", digest, f"file:///w/{digest}", "", {})
    registry.set_alias("aliased", "champion", "1")
    registry.set_alias("aliased", "champion", "2")
    registry.set_alias("aliased", "candidate", "1")
    assert registry.aliases("aliased") == {"champion": "2", "candidate": "1"}
    registry.set_alias("aliased", "candidate", None)
    registry.set_alias("aliased", "candidate", None)
    assert registry.aliases("aliased") == {"champion": "2"}
    assert registry.aliases("never registered") == {}


def test_an_alias_that_mlflow_forbids_is_a_permanent_error(registry: ModelRegistry) -> None:
    registry.register("strict", "d1", "file:///w/d1", "", {})
    with pytest.raises(InvalidInput, match="refused"):
        registry.set_alias("strict", "latest", "1")


@pytest.mark.parametrize("spoil", ["a directory", "no database"])
def test_a_database_that_cannot_be_opened_is_reported_at_once(tmp_path: Path, spoil: str) -> None:
    if spoil == "a directory":
        (tmp_path / "mlflow.db").mkdir()
    else:
        (tmp_path / "mlflow.db").write_bytes(b"not a database" * 1000)
    with pytest.raises(RegistryUnavailable, match=r"does not answer: .*database.* prepared version sets goes on"):
        make_registry(tmp_path).aliases("tiny")


def test_a_server_that_is_down_is_reported_in_seconds_with_the_reason(free_port: int) -> None:
    started = time.monotonic()
    with pytest.raises(
        RegistryUnavailable, match=f"http://127.0.0.1:{free_port} does not answer: .*Connection refused"
    ):
        ModelRegistry(f"http://127.0.0.1:{free_port}").aliases("tiny")
    # MLflow's own default is 247 s: an order of magnitude, no timing.
    assert time.monotonic() - started < 60


@pytest.mark.process
def test_a_server_registers_weights_that_lie_in_a_local_store(mlflow_directory: Path, free_port: int) -> None:
    make_registry(mlflow_directory).aliases("creates the tables")
    command = (
        f"-m mlflow server --workers 1 --port {free_port} --backend-store-uri sqlite:///{mlflow_directory}/mlflow.db"
    )
    server = subprocess.Popen(
        [sys.executable, *command.split(), "--artifacts-destination", str(mlflow_directory / "served")],
        # Its job runners are three more processes that import MLflow.
        env={**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        # Of its own: the embedded registry's keeps its artifacts in a directory.
        registry = ModelRegistry(f"http://127.0.0.1:{free_port}", experiment="served")
        wait_until_it_answers(registry, server)
        run_id = registry.ensure_run("served-training", {"steps": 60})
        registry.log_curve(run_id, [{"step": 1, "loss": 4.0}])
        registry.log_figure(run_id, "curves/loss.svg", b"<svg/>")
        version = registry.register("served", "d1", "file:///store/weights/d1", run_id, {"recipe": "define"}).version
        registry.set_alias("served", "champion", version)
        assert registry.register("served", "d1", "file:///store/weights/d1", run_id, {}).version == version
        assert registry.aliases("served") == {"champion": version}
        client = registry.connection.client()
        stored = client.get_model_version("served", version)
        assert stored.source == f"{client.get_run(run_id).info.artifact_uri}/model"
        assert str(stored.source).startswith("mlflow-artifacts:/")
        assert [one.path for one in client.list_artifacts(run_id, "model")] == ["model/MLmodel"]
        assert stored.tags["headrace.weights_uri"] == "file:///store/weights/d1"
        # A server refuses `file:` sources outside its own artifacts; without a run the digest finds the weights.
        of_no_run = registry.register("served", "d2", "file:///store/weights/d2", "", {}).version
        assert client.get_model_version("served", of_no_run).source == "headrace://weights/d2"
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()
    with pytest.raises(RegistryUnavailable, match="does not answer"):
        registry.aliases("served")


def wait_until_it_answers(registry: ModelRegistry, server: subprocess.Popen) -> None:
    while True:
        try:
            registry.aliases("anything")
        except RegistryUnavailable:
            assert server.poll() is None
            time.sleep(0.5)
        else:
            return


@pytest.mark.parametrize(
    "name", ["x' or name = 'y", "it's", 'say "x"', "x\\", "x`y", "x\ny"], ids=["or", "'", '"', "\\", "`", "line end"]
)
def test_a_model_name_that_would_end_its_quotes_in_a_search_is_refused(registry: ModelRegistry, name: str) -> None:
    with pytest.raises(InvalidInput, match="A model name must have no quote, backslash.* Give it another name"):
        registry.find_by_digest(name, "d" * 64)
    with pytest.raises(InvalidInput, match="The key of a run must have no quote"):
        registry.ensure_run(name, {})


@pytest.mark.parametrize("name", ["quoted %", "quoted ; drop", "quoted -- x", "quoted and name = y", "quoted 模型"])
def test_a_search_takes_every_other_name_as_it_is_spelled(registry: ModelRegistry, name: str) -> None:
    made = registry.register(name, "e" * 64, "file:///w", "", {})
    assert registry.find_by_digest(name, "e" * 64) == made.version
    assert registry.find_by_digest(name[:-1], "e" * 64) is None
