"""transformers derives the mask of packed sequences from restarting positions, and only without a mask and a cache.

`headrace.training.feeding` leans on it. A failure here means: read `masking_utils` again before upgrading.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM


@pytest.fixture(scope="module")
def model(tiny_model: Path) -> Any:
    loaded: Any = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32, attn_implementation="sdpa")
    return loaded.eval()


def last_logits(model: Any, first_half: list[int], **options: Any) -> torch.Tensor:
    """Of the second of two packed examples, behind different first ones."""
    ids = torch.tensor([[*first_half, 40, 41, 42, 43]])
    positions = torch.tensor([[0, 1, 2, 3, 0, 1, 2, 3]])
    with torch.no_grad():
        return model(input_ids=ids, position_ids=positions, **options).logits[0, -1]


def test_restarting_positions_separate_examples(model: Any) -> None:
    one, other = (last_logits(model, first, use_cache=False) for first in ([5, 6, 7, 8], [9, 10, 11, 12]))
    torch.testing.assert_close(one, other)


def test_a_cache_or_a_mask_would_let_them_see_each_other(model: Any) -> None:
    for options in ({"use_cache": True}, {"use_cache": False, "attention_mask": torch.ones(1, 8, dtype=torch.long)}):
        one, other = (last_logits(model, first, **options) for first in ([5, 6, 7, 8], [9, 10, 11, 12]))
        assert not torch.allclose(one, other)
