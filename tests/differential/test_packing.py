"""Packed rows against the same examples alone in plain transformers, over architectures that leak and that do not.

`python -m benchmarks.packing_leaks` does it for every causal architecture; here stand those of each kind: dense,
sparse, sliding windows, learnt positions, biases by distance, convolutions, states of all families, hybrids, masks that
are made without positions.
"""

from collections.abc import Mapping

import pytest

from benchmarks.packing_leaks.compared import Found, look_at_all

KEPT_APART = ["llama", "gpt2", "mixtral", "gemma2", "deepseek_v3", "gpt_neox"]
LEAKING = [
    "bamba", "bloom", "falcon", "falcon_h1", "gpt_oss", "granitemoehybrid", "jamba", "lfm2", "mamba", "mpt",
    "nemotron_h", "opt", "qwen3_next", "recurrent_gemma", "rwkv",
]  # fmt: skip
NOT_CAUSAL = ["bert", "roberta"]


@pytest.fixture(scope="module")
def found() -> Mapping[str, Found]:
    return {one.architecture: one for one in look_at_all([*KEPT_APART, *LEAKING, *NOT_CAUSAL])}


def test_every_architecture_learns_from_each_example_what_it_would_learn_from_it_alone(
    found: Mapping[str, Found],
) -> None:
    assert [one for one in found.values() if one.leaks_silently] == []


@pytest.mark.parametrize("name", KEPT_APART)
def test_an_architecture_that_keeps_examples_apart_is_fed_packed_rows(name: str, found: Mapping[str, Found]) -> None:
    assert found[name].feeding == "packed"


@pytest.mark.parametrize("name", LEAKING)
def test_an_architecture_that_would_leak_is_fed_one_example_a_row(name: str, found: Mapping[str, Found]) -> None:
    assert found[name].feeding == "one example a row"


@pytest.mark.parametrize("name", NOT_CAUSAL)
def test_a_model_that_sees_what_follows_is_refused(name: str, found: Mapping[str, Found]) -> None:
    assert found[name].feeding == "refused"
    assert "no causal language model, and would learn to copy" in found[name].reason
