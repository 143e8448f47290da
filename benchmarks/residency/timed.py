"""The engine `timed`: the painter of diffusers with a pipeline that takes a stated time for each step, and no core."""

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Annotated, Any

from annotated_types import Ge

from headrace.engines.base import LoadedModel
from headrace.engines.local.model_thread import ModelThread
from headrace.engines.local.pictures import DiffusersEngine
from headrace.engines.local.pipelines import GivenUp
from headrace.engines.media import MediaAnswer, MediaEngine, MediaTurn
from headrace.engines.registry import EngineKind, Opening


@dataclass(frozen=True, kw_only=True)
class TimedOptions:
    step_seconds: Annotated[float, Ge(0)] = 0.0
    """How long a step of a batch takes."""
    num_bytes: Annotated[int, Ge(0)] = 0
    """Above 0: no steps, and each answer is so many bytes, which are no picture."""
    batch_rows: int = 4


class TimedPipeline:
    """What `DiffusersEngine` uses of a `LocalPipeline`."""

    device = SimpleNamespace(type="cpu")
    mixes_rows = False

    def __init__(self, num_steps: int, step_seconds: float) -> None:
        self._num_steps, self._step_seconds = num_steps, step_seconds

    def twin(self) -> "TimedPipeline":
        return self

    def cut(self, text: str) -> None:
        return None

    def paint(
        self, texts: Sequence[str], seeds: Sequence[int], *, is_wanted: Callable[[], bool]
    ) -> tuple[list[Any], list[bool]]:
        from PIL import Image

        for _ in range(self._num_steps):
            time.sleep(self._step_seconds)
            if not is_wanted():
                raise GivenUp
        return [Image.new("RGB", (8, 8), (seed % 256, 0, 0)) for seed in seeds], [False] * len(texts)


class TimedPainter(DiffusersEngine):
    name = "timed"

    def __init__(self, opening: Opening) -> None:
        picture = opening.member.picture
        assert picture
        pipeline: Any = TimedPipeline(picture.num_inference_steps or 1, opening.options.step_seconds)
        ModelThread.__init__(self, pipeline, opening.member, opening.spec, doing="painting")


class LargeAnswers(MediaEngine):
    name = "timed"

    def __init__(self, num_bytes: int) -> None:
        self._content = os.urandom(num_bytes)

    async def make(self, turn: MediaTurn) -> MediaAnswer:
        return MediaAnswer(content=self._content)


def _open(opening: Opening) -> LoadedModel:
    num_bytes = opening.options.num_bytes
    return LargeAnswers(num_bytes) if num_bytes else TimedPainter(opening)


KIND = EngineKind(name="timed", open=_open, options=TimedOptions, makes=("image",), can_be_hosted=True)
