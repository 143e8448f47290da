"""Fixtures that every room's tests share."""

import gc
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# How often a property is tried, the same for all: `make test-thorough` looks longer. Examples of any size and pace will
# do, for the machine may be busy; who needs a count of its own takes a share of these.
settings.register_profile(
    "default",
    max_examples=20,
    stateful_step_count=15,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
)
settings.register_profile("thorough", settings.get_profile("default"), max_examples=300, stateful_step_count=40)
settings.load_profile("default")
# Nothing may wait on a hub. Set before any test imports transformers, which reads it at import.
os.environ["HF_HUB_OFFLINE"] = "1"
# A test that wants an engine host starts one of its own: the node's would outlive it.
os.environ["HEADRACE_ENGINE_HOST"] = "off"
# make names the checkout's own instance, which no test may touch: loading the definitions registers keys with it.
os.environ.pop("DAGSTER_HOME", None)
# A job of a script's background ignores SIGINT; Dagster would make SIGTERM the same, and every child would inherit it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
# Nobody here loses power, and waits for the disk are half of many tests' time: in memory, if there is room for a run.
_MEMORY = Path("/dev/shm")
if _MEMORY.is_dir() and shutil.disk_usage(_MEMORY).free >= 4 * 2**30:
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(_MEMORY))
if "PYTEST_XDIST_WORKER" in os.environ:
    # Beside another worker, torch's threads would wait for each other.
    os.environ["OMP_NUM_THREADS"] = "1"
# Tests share builders as `from tests.builders import …`; importmode=importlib leaves the checkout off the path.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))


def pytest_collection_finish() -> None:
    from tests.cheap_instances import make_instances_cheap

    make_instances_cheap()
    # What was imported is no garbage: a look through it takes a second, and some tests look often.
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def temporary_files(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What tests and their processes leave behind among temporary files goes when pytest's own directory goes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(tmp_path_factory.mktemp("tmp")))
        patch.setattr(tempfile, "tempdir", None)
        yield


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directory of a 1M-parameter Llama with tokenizer and chat template; read it, never write to it."""
    from simulation.tiny_model import build_tiny_model

    return build_tiny_model(tmp_path_factory.mktemp("tiny-model"))


@pytest.fixture(scope="session")
def pixel_pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directory of a tiny PRX pipeline, without a VAE; read it, never write to it."""
    from simulation.tiny_pipelines import build_pixel_pipeline

    return build_pixel_pipeline(tmp_path_factory.mktemp("pixel-pipeline"))


@pytest.fixture(scope="session")
def latent_pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directory of a tiny Stable Diffusion pipeline; read it, never write to it."""
    from simulation.tiny_pipelines import build_latent_pipeline

    return build_latent_pipeline(tmp_path_factory.mktemp("latent-pipeline"))
