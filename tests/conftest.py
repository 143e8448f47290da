"""Fixtures that every room's tests share."""

import os
import signal
import sys
from pathlib import Path

import pytest

# Nothing may wait on a hub. Set before any test imports transformers, which reads it at import.
os.environ["HF_HUB_OFFLINE"] = "1"
# A job of a script's background ignores SIGINT; Dagster would make SIGTERM the same, and every child would inherit it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
# Tests share builders as `from tests.builders import …`; importmode=importlib leaves the checkout off the path.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directory of a 1M-parameter Llama with tokenizer and chat template; read it, never write to it."""
    from tests.tiny_model import build_tiny_model

    return build_tiny_model(tmp_path_factory.mktemp("tiny-model"))
