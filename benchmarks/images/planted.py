"""Pictures whose twins are known: each original with every change that leaves it the same, and those that do not.

Photographs are cut out of the two that scikit-learn brings, which comes with MLflow.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from PIL import Image

from simulation.pictures import KINDS, OTHER, SAME, slide

_SLIDES_A_TEMPLATE = 6


@dataclass(frozen=True)
class Planted:
    """`identity`: the same for twins. `change`: what was done to it; empty: an original."""

    kind: str
    identity: str
    change: str
    picture: Image.Image


def planted(num_originals: int, seed: int) -> Iterator[Planted]:
    random = np.random.default_rng(seed)
    photographs = _photographs()
    makers = {**KINDS, "photograph": lambda random: _cut_out(photographs, random)}
    for kind, make in makers.items():
        for number in range(num_originals):
            original, identity = make(random), f"{kind} {number}"
            yield Planted(kind, identity, "", original)
            for change, changed in SAME.items():
                yield Planted(kind, identity, change, changed(original, random))
            for change, changed in OTHER.items():
                yield Planted(kind, f"{identity} {change}", change, changed(original, random))
    for template in range(max(1, num_originals // _SLIDES_A_TEMPLATE)):
        for number in range(_SLIDES_A_TEMPLATE):
            picture = slide(random, template=template)
            yield Planted("slide", f"template {template} {number}", "other text", picture)


def _photographs() -> list[Image.Image]:
    from sklearn.datasets import load_sample_images

    return [Image.fromarray(pixels) for pixels in load_sample_images().images]


def _cut_out(photographs: list[Image.Image], random: np.random.Generator) -> Image.Image:
    """A quarter or more of one, so that two of them are two pictures, though they may overlap."""
    whole = photographs[random.integers(len(photographs))]
    width, height = int(random.integers(200, 400)), int(random.integers(150, 300))
    left, top = int(random.integers(0, whole.width - width)), int(random.integers(0, whole.height - height))
    return whole.crop((left, top, left + width, top + height))
