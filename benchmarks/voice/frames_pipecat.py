"""Pipecat's side of `frames`, run by its own interpreter: a pipeline of five pass-through processors for each call."""

import asyncio
import time
from typing import Any

from loguru import logger  # pyright: ignore[reportMissingImports]
from pipecat.frames.frames import InputAudioRawFrame  # pyright: ignore[reportMissingImports]
from pipecat.pipeline.pipeline import Pipeline  # pyright: ignore[reportMissingImports]
from pipecat.pipeline.worker import PipelineWorker  # pyright: ignore[reportMissingImports]
from pipecat.processors.frame_processor import FrameProcessor  # pyright: ignore[reportMissingImports]
from pipecat.workers.runner import WorkerRunner  # pyright: ignore[reportMissingImports]

from benchmarks.voice.pace import FRAME_SECONDS, NUM_HOPS, WARM_UP_SECONDS, now, on_one_core, task, tell

_PCM = bytes(2 * 480)


class PassThrough(FrameProcessor):
    async def process_frame(self, frame: Any, direction: Any) -> None:
        await super().process_frame(frame, direction)
        await self.push_frame(frame, direction)


class Sink(FrameProcessor):
    def __init__(self, late: list[float]) -> None:
        super().__init__()
        self._late = late

    async def process_frame(self, frame: Any, direction: Any) -> None:
        await super().process_frame(frame, direction)
        if isinstance(frame, InputAudioRawFrame):
            self._late.append(now() - frame.metadata["came"])
        await self.push_frame(frame, direction)


async def measured(num_calls: int, seconds: float) -> None:
    late: list[float] = []
    workers: list[Any] = []
    started: list[asyncio.Event] = []
    runner = WorkerRunner(handle_sigint=False)
    for _ in range(num_calls):
        pipeline = Pipeline([*(PassThrough() for _ in range(NUM_HOPS)), Sink(late)])
        worker = PipelineWorker(pipeline, cancel_on_idle_timeout=False, enable_rtvi=False, enable_turn_tracking=False)
        has_started = asyncio.Event()

        @worker.event_handler("on_pipeline_started")
        async def note_start(worker: Any, frame: Any, has_started: asyncio.Event = has_started) -> None:
            has_started.set()

        workers.append(worker)
        started.append(has_started)
    await runner.add_workers(*workers)
    running = asyncio.create_task(runner.run())
    for event in started:
        await asyncio.wait_for(event.wait(), 60)
    await _feed(workers, WARM_UP_SECONDS)
    late.clear()
    cpu, wall = time.process_time(), now()
    await _feed(workers, seconds)
    cpu, wall = time.process_time() - cpu, now() - wall
    tell(list(late), calls=num_calls, cpu_seconds=cpu, wall_seconds=wall)
    await runner.cancel()
    await asyncio.wait({running}, timeout=10)


async def _feed(workers: list[Any], seconds: float) -> None:
    num, begun = len(workers), now()
    step, at = FRAME_SECONDS / num, 0
    while (ago := now() - begun) < seconds:
        while at * step <= ago:
            frame = InputAudioRawFrame(audio=_PCM, sample_rate=24_000, num_channels=1)
            frame.metadata["came"] = now()
            await workers[at % num].queue_frame(frame)
            at += 1
        await asyncio.sleep(max(0.001, at * step - (now() - begun)))


if __name__ == "__main__":
    logger.remove()
    on_one_core()
    asked = task()
    asyncio.run(measured(asked["calls"], asked["seconds"]))
