"""How well a picture model knows the captions it was taught: which pictures measure it, and the figures.

Not the error on held-out captions: nobody can guess the picture of an unseen thing, so that error turns while the
pictures still get better, and a gate on it would send the better model back. It is shown as a warning of learning by
heart. What is registered is the error on *taught* captions, with noise that training never drew.

The retrieval paints taught captions with diffusers' own pipeline, one a call, and asks whether the caption's own
picture is among the nearest of the gallery by its mean colours in 8 x 8 fields.
"""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from headrace.keys import digest_text
from headrace.training.flow_matching import denoising_error
from headrace.training.order import shuffled
from headrace.training.picture_examples import PictureSplit

# What is registered: the mean over shares of noise of the mean squared error a channel of a pixel, pixels from -1 to 1.
TAUGHT_ERROR = "taught_denoising_error"
# Little noise shows edges, much noise shows whether the caption is known.
SHARES = (0.2, 0.5, 0.8, 0.95)
# Captions that are measured, and pictures among which a painted one is looked for.
NUM_CAPTIONS, GALLERY_MAX = 48, 2000
_BATCH = 16
_FIELDS, _TOP = 8, 5
# As good as 16 steps with guidance 3 where both were tried, at half the cost.
_STEPS, _GUIDANCE = 8, 2.0


def measured_captions(pictures: PictureSplit) -> np.ndarray:
    """The same ones for every model: the first of the shuffled split."""
    return shuffled(len(pictures), 0, 0)[:NUM_CAPTIONS]


def errors_by_share(transformer: Any, pictures: PictureSplit, numbers: np.ndarray, device: str) -> dict[float, float]:
    """Mean denoising error of these pictures at each of `SHARES`."""
    import torch

    found: dict[float, float] = {}
    with torch.inference_mode():
        for share in SHARES:
            errors: list[float] = []
            for start in range(0, len(numbers), _BATCH):
                some = numbers[start : start + _BATCH]
                noise_BCHW = torch.stack([_noise(pictures, int(number), share) for number in some])  # noqa: N806
                share_B = torch.full((len(some),), share)  # noqa: N806 (shape letters)
                errors += denoising_error(transformer, pictures.take(some), share_B, noise_BCHW, device).tolist()
            found[share] = float(np.mean(errors))
    return found


def _noise(pictures: PictureSplit, number: int, share: float) -> Any:
    """By the picture's name: a training's noise comes from its seed and step, and is never the same."""
    import torch

    seed = int(digest_text("denoising", pictures.item_ids[number], str(share))[:15], 16)
    side = pictures.shape.side
    return torch.randn(3, side, side, generator=torch.Generator().manual_seed(seed))


def painted(pipeline: Any, caption: str, side: int) -> np.ndarray:
    """float32 [H, W, 3] from 0 to 1, as the pipeline alone paints a caption; the caption decides the noise."""
    import torch

    seed = int(digest_text("painting", caption)[:15], 16)
    made = pipeline(
        caption,
        num_inference_steps=_STEPS,
        guidance_scale=_GUIDANCE,
        height=side,
        width=side,
        use_resolution_binning=False,
        generator=torch.Generator().manual_seed(seed),
        output_type="np",
    )
    return made.images[0]


def mean_colours(pictures_BHWC: np.ndarray) -> np.ndarray:  # noqa: N803
    """[B, 8 * 8 * 3]: mean colours of fields; of sides that 8 does not divide, fields differ by a pixel."""
    edges = np.linspace(0, pictures_BHWC.shape[1], _FIELDS + 1).round().astype(int)
    sums = np.add.reduceat(np.add.reduceat(pictures_BHWC, edges[:-1], axis=1), edges[:-1], axis=2)
    sizes = np.diff(edges)
    return (sums / np.outer(sizes, sizes)[None, :, :, None]).reshape(len(pictures_BHWC), -1)


def retrieval(
    pictures: PictureSplit,
    numbers: np.ndarray,
    paint: Callable[[Sequence[str]], Iterable[np.ndarray]],
) -> tuple[float, float, list[int]]:
    """Shares of captions whose own picture, and whose neighbour's, is in the top 5; and the own pictures' ranks from 1.

    Args:
        paint: a picture [H, W, 3] from 0 to 1 of each caption.
    """
    others = [number for number in shuffled(len(pictures), 0, 0).tolist() if number not in set(numbers.tolist())]
    gallery = [*numbers.tolist(), *others][: max(GALLERY_MAX, len(numbers))]
    true = pictures.take(gallery).pixels_BCHW.permute(0, 2, 3, 1).numpy() / 2 + 0.5
    made = np.stack(list(paint([pictures.captions[number] for number in numbers])))
    own_colours, gallery_colours = mean_colours(made), mean_colours(true)
    distances = np.linalg.norm(own_colours[:, None] - gallery_colours[None], axis=2)
    places = np.arange(len(numbers))
    ranks = _ranks(distances, places)
    wrong = _ranks(distances, np.roll(places, 1))
    return float((ranks <= _TOP).mean()), float((wrong <= _TOP).mean()), ranks.tolist()


def _ranks(distances: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """From 1: how many of the gallery are nearer, ties aside."""
    of_wanted = np.take_along_axis(distances, wanted[:, None], axis=1)
    return 1 + (distances < of_wanted).sum(axis=1)


def open_pipeline(weights: Path, device: str) -> Any:
    from diffusers.pipelines.prx.pipeline_prx_pixel import PRXPixelPipeline

    pipeline: Any = PRXPixelPipeline.from_pretrained(weights).to(device)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
