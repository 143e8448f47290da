"""The engine `timed`: what the `echo` engine makes, on the timed device that this process was given as its GPU."""

import asyncio
import os
from dataclasses import dataclass

from benchmarks.modalities.timed_device import Device
from headrace.engines.base import Answer, LoadedModel, Turn
from headrace.engines.echo import EchoEngine
from headrace.engines.echo_media import EchoMediaEngine
from headrace.engines.media import MediaAnswer, MediaTurn
from headrace.engines.registry import EngineKind, Opening


@dataclass(frozen=True, kw_only=True)
class TimedOptions:
    item_seconds: float = 0.0
    """How long the device works for one item."""


class TimedWriter(EchoEngine):
    def __init__(self, opening: Opening) -> None:
        super().__init__(opening.member)
        self._device = _device_of(opening)

    async def answer(self, turn: Turn) -> Answer:
        await asyncio.to_thread(self._device.work, turn.unit)
        return await super().answer(turn)


class TimedMaker(EchoMediaEngine):
    def __init__(self, opening: Opening) -> None:
        super().__init__(opening.member)
        self._device = _device_of(opening)
        # What the first item would import is imported as a model loads.
        asyncio.run(super().make(MediaTurn(unit="warm-up", text="A first item.", seed=0)))

    async def make(self, turn: MediaTurn) -> MediaAnswer:
        await asyncio.to_thread(self._device.work, turn.unit)
        return await super().make(turn)


def _device_of(opening: Opening) -> Device:
    name = os.environ.get("CUDA_VISIBLE_DEVICES") or "no-gpu"
    return Device(name, opening.member.kind, opening.options.item_seconds)


def _open(opening: Opening) -> LoadedModel:
    return TimedWriter(opening) if opening.member.kind == "text" else TimedMaker(opening)


KIND = EngineKind(name="timed", open=_open, options=TimedOptions, makes=("text", "image", "speech"), deterministic=True)
