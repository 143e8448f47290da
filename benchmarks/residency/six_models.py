"""Six painters of about 350 MB each, of which three have one text encoder; who asks for which; how a peer uses one.

An encoder is as large as the denoiser beside it, as in pipelines of today. Sides that hold several models in one
process load and paint by these functions, so that only what stays in memory differs. Imported by peers' interpreters,
too.
"""

import asyncio
import io
import random
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from headrace.version_sets.media_settings import Picture

NAMES = tuple(f"painter-{number}" for number in range(6))
NUM_FIT = 3
# As many as the machine has cores, of any of the models.
NUM_AT_ONCE = 2
PICTURE = Picture(width=16, height=16, num_inference_steps=4)
# The first half of them share an encoder.
_NUM_SHARING = 3
_SIZES = {"hidden_size": 512, "depth": 8, "encoder_size": 512, "encoder_layers": 14}


def build_models(directory: Path) -> dict[str, Path]:
    """Writes them, each with weights of its own but for the shared encoder."""
    from simulation.tiny_pipelines import build_pixel_pipeline

    found: dict[str, Path] = {}
    for seed, name in enumerate(NAMES):
        found[name] = build_pixel_pipeline(directory / name, seed=seed, **_SIZES)
        if 0 < seed < _NUM_SHARING:
            shutil.rmtree(found[name] / "text_encoder")
            shutil.copytree(found[NAMES[0]] / "text_encoder", found[name] / "text_encoder")
    return found


def drawn(num_requests: int, seed: int) -> list[str]:
    """The models of consecutive requests, by Zipf's law: the second is asked half as often as the first."""
    weights = [1 / rank for rank in range(1, len(NAMES) + 1)]
    # Which one is asked most has nothing to do with which share a part.
    order = random.Random(7).sample(NAMES, len(NAMES))
    return random.Random(seed).choices(order, weights, k=num_requests)


class Models:
    """Loads models and paints with them, in one process: a picture at a time with each, and so many at once."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._locks = {name: asyncio.Lock() for name in NAMES}
        self._cores = asyncio.Semaphore(NUM_AT_ONCE)
        # Libraries that load set torch's defaults for the whole process: two at once fail.
        self._loading = asyncio.Lock()
        self.num_loads = 0

    async def load(self, name: str) -> Any:
        self.num_loads += 1
        async with self._loading:
            return await asyncio.to_thread(self._loaded, name)

    async def paint(self, name: str, model: Any, texts: Sequence[str], seeds: Sequence[int]) -> bytes:
        """The file of the first picture."""
        # First its model, so that nobody has a core who cannot paint.
        async with self._locks[name], self._cores:
            return await asyncio.to_thread(_painted, model, texts, seeds)

    def _loaded(self, name: str) -> Any:
        from benchmarks.residency.members import member_of
        from headrace.engines.local.pipelines import load_pipeline
        from headrace.version_sets.sets import EngineSpec

        spec = EngineSpec(name="diffusers", dtype="float32", num_threads=1, batch_rows=1)
        return load_pipeline(self._directory / name, member_of(name, picture=PICTURE), spec)


def _painted(model: Any, texts: Sequence[str], seeds: Sequence[int]) -> bytes:
    [picture, *_], _ = model.paint(texts, seeds, is_wanted=lambda: True)
    file = io.BytesIO()
    picture.save(file, "PNG", compress_level=6, optimize=False)
    return file.getvalue()
