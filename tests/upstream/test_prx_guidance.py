"""What diffusers' PRX pipelines do with several texts, which the engine `diffusers` puts right.

A failure here reads: diffusers changed, look at headrace/engines/local/pipelines.py.
"""

from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="module")
def stock(pixel_pipeline: Path) -> Any:
    from diffusers.pipelines.pipeline_utils import DiffusionPipeline

    found: Any = DiffusionPipeline.from_pretrained(str(pixel_pipeline))
    found.set_progress_bar_config(disable=True)
    return found


def paint(stock: Any, *texts: str, guidance_scale: float) -> list[Any]:
    return stock(list(texts), num_inference_steps=1, guidance_scale=guidance_scale, use_resolution_binning=False).images


def test_one_text_with_guidance_and_several_without_are_painted(stock: Any) -> None:
    assert len(paint(stock, "a mill", guidance_scale=3.0)) == 1
    assert len(paint(stock, "a mill", "a wheel", guidance_scale=1.0)) == 2


def test_several_texts_with_guidance_are_not(stock: Any) -> None:
    with pytest.raises(RuntimeError, match=r"size of tensor a \(2\) must match the size of tensor b \(4\)"):
        paint(stock, "a mill", "a wheel", guidance_scale=3.0)
