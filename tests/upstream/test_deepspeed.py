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


def test_the_autotuner_does_without_mlflow_where_it_cannot_be_imported(deepspeed: Any) -> None:
    """Which `headrace.training.train.import_libraries` saves 1.5 CPU seconds by."""
    from deepspeed.autotuning import autotuner

    assert "try:\n    import mlflow\n    has_mlflow = True\nexcept" in inspect.getsource(autotuner)


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


def test_the_optimizer_of_stage_0_in_half_precision_takes_a_step_to_make_its_moments(deepspeed: Any) -> None:
    """`headrace.training.optimizer` makes it a step of nothing, and forgets it."""
    import torch
    from deepspeed.runtime.fp16.unfused_optimizer import FP16_UnfusedOptimizer

    weight = torch.ones(2, 2, dtype=torch.bfloat16, requires_grad=True)
    master = torch.ones(2, 2, requires_grad=True)
    wrapper = FP16_UnfusedOptimizer.__new__(FP16_UnfusedOptimizer)
    wrapper.optimizer = torch.optim.AdamW([master], lr=0.1, weight_decay=1.0)
    wrapper.fp16_groups, wrapper.fp32_groups = [[weight]], [[master]]
    wrapper.initialize_optimizer_states()
    assert master[0, 0].item() == pytest.approx(0.9), "decayed at the full rate, before any gradient"
    assert wrapper.optimizer.state[master]["step"].item() == 1
    assert "initialize_optimizer_states()" in inspect.getsource(FP16_UnfusedOptimizer.__init__)


_STAGE_3 = "deepspeed.runtime.zero.stage3", "DeepSpeedZeroOptimizer_Stage3"
_STAGES_1_AND_2 = "deepspeed.runtime.zero.stage_1_and_2", "DeepSpeedZeroOptimizer"
# What a method's source says, by what it means.
_SOURCES = {
    "an unwrapped optimizer is asked for its norm and whether it overflowed": (
        ("deepspeed", "DeepSpeedEngine", "_take_model_step"),
        ("self._global_grad_norm = self.optimizer._global_grad_norm", "overflow = self.optimizer.overflow"),
    ),
    "stage 3 lends its parameters to the optimizer for a step alone": (
        (*_STAGE_3, "_optimizer_step"),
        ("fp32_param = self.fp32_partitioned_groups_flat[sub_group_id]", "['params'] = []"),
    ),
    # What the guard against loss spikes skips a batch by.
    "gradients that are no numbers leave a step out in fp32 too": (
        (*_STAGES_1_AND_2, "step"),
        ("self.dtype != torch.bfloat16", "is_invalid_grad_norm(scaled_global_grad_norm)"),
    ),
    # So `headrace.training.masters` sets each rank's own part.
    "stage 3 sets no whole master that the ranks do not divide": (
        (*_STAGE_3, "set_full_hp_param"),
        ("value_partition = value.flatten().narrow(", "== param.ds_numel"),
    ),
    # `headrace.training.universal.load` puts both right, and `why_fixed` could forbid less once it reads other states.
    "the universal load of stage 3 gives every group the first one's settings and its tensor of steps": (
        (*_STAGE_3, "load_hp_checkpoint_state_from_checkpoint_dir_stage3"),
        (
            "state_step = optim_sd[OPTIMIZER_STATE_DICT]['state'][0]['step']",
            "self.optimizer.state[fp32_param]['step'] = state_step",
            'for key, value in optim_sd[OPTIMIZER_STATE_DICT]["param_groups"][0].items()',
            'for key in ["fp32", "exp_avg", "exp_avg_sq"]',
        ),
    ),
    "the universal load reads no buffers": (
        ("deepspeed", "DeepSpeedEngine", "_load_checkpoint"),
        ("if not self.load_universal_checkpoint():\n            self.load_module_state_dict(",),
    ),
}


@pytest.mark.usefixtures("deepspeed")
@pytest.mark.parametrize(("place", "lines"), _SOURCES.values(), ids=_SOURCES)
def test_a_methods_source_still_says(place: tuple[str, str, str], lines: tuple[str, ...]) -> None:
    module, kind, method = place
    source = inspect.getsource(getattr(getattr(importlib.import_module(module), kind), method))
    assert [line for line in lines if line not in source] == []


def test_adagrad_is_replaced_by_one_without_the_groups_of_ours(deepspeed: Any) -> None:
    """So `headrace.training.optimizer` does not offer it: weights that must not decay would."""
    from deepspeed.runtime.zero.stage3 import DeepSpeedZeroOptimizer_Stage3
    from deepspeed.runtime.zero.stage_1_and_2 import DeepSpeedZeroOptimizer

    for kind in (DeepSpeedZeroOptimizer, DeepSpeedZeroOptimizer_Stage3):
        source = inspect.getsource(kind.initialize_optimizer_states)
        assert "torch.optim.Adagrad(self." in source
        assert "**self.optimizer.defaults)" in source


def test_transformers_divides_a_model_by_one_global_that_can_be_put_aside() -> None:
    from transformers.integrations import deepspeed as integration

    assert "_hf_deepspeed_config_weak_ref = None" in inspect.getsource(integration.unset_hf_deepspeed_config)
    assert "_hf_deepspeed_config_weak_ref()" in inspect.getsource(integration.is_deepspeed_zero3_enabled)


def test_the_universal_load_of_stages_1_and_2_takes_whatever_tensors_a_parameter_has(deepspeed: Any) -> None:
    """By which an objective's averages come back as the optimizer's moments do."""
    from deepspeed.checkpoint import universal_checkpoint

    source = inspect.getsource(universal_checkpoint.load_hp_checkpoint_state)
    assert "for file in os.listdir(folder)" in source
    assert "hp_mapping.optim_fragment[key] = tp_hp_fragment" in source
