"""What `headrace.training` leans on in DeepSpeed and no documentation promises. A failure means: upstream changed."""

import importlib
import inspect
from typing import Any

import pytest


@pytest.fixture(scope="module")
def deepspeed() -> Any:
    import os

    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    import deepspeed

    return deepspeed


def test_the_shared_memory_op_is_left_alone_if_it_counts_as_incompatible(
    deepspeed: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend: Any = importlib.import_module("deepspeed.comm.torch")
    monkeypatch.setitem(deepspeed.ops.__compatible_ops__, "deepspeed_shm_comm", False)
    assert backend.build_shm_op() is None


def test_training_all_reduces_do_not_use_the_shared_memory_op(deepspeed: Any) -> None:
    from deepspeed.comm.torch import TorchBackend

    assert "shm" not in inspect.getsource(TorchBackend.all_reduce)


def test_a_checkpoint_is_saved_and_loaded_through_the_engines_checkpoint_engine(deepspeed: Any) -> None:
    engine = deepspeed.DeepSpeedEngine
    for method in (engine._save_checkpoint, engine._save_zero_checkpoint):
        source = inspect.getsource(method)
        assert "self.checkpoint_engine.save(" in source
        assert "torch.save" not in source
    assert "self.checkpoint_engine.load(" in inspect.getsource(engine._get_all_zero_checkpoint_state_dicts)


def test_whether_a_step_was_applied_is_told(deepspeed: Any) -> None:
    assert "_step_applied" in inspect.getsource(deepspeed.DeepSpeedEngine.was_step_applied)


def test_bf16_gradients_are_checked_if_asked(deepspeed: Any) -> None:
    from deepspeed.runtime.precision_config import DeepSpeedBF16Config

    assert "check_grad_overflow" in DeepSpeedBF16Config.model_fields
