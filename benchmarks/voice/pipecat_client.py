"""Pipecat's own client of OpenAI's Realtime API against a gateway, run by Pipecat's interpreter: a question in text and
a turn that is spoken, each answered.

`python -m benchmarks.voice.pipecat_client` reads JSON: `url` (`ws://…/v1/realtime`), `key`, `model`, `text`, and `pcm`,
samples of 16 bits at 24,000 a second in Base64; empty: no spoken turn. Prints one line of JSON: the names of the events
that it sent, the words and the bytes of audio of each answer, and what went wrong.
"""

import asyncio
import base64
import json
import sys
from typing import Any

from loguru import logger  # pyright: ignore[reportMissingImports]
from pipecat.frames.frames import (  # pyright: ignore[reportMissingImports]
    ErrorFrame,
    InputAudioRawFrame,
    LLMContextFrame,
    LLMFullResponseEndFrame,
    TTSAudioRawFrame,
    TTSTextFrame,
)
from pipecat.pipeline.pipeline import Pipeline  # pyright: ignore[reportMissingImports]
from pipecat.pipeline.worker import PipelineWorker  # pyright: ignore[reportMissingImports]
from pipecat.processors.aggregators.llm_context import LLMContext  # pyright: ignore[reportMissingImports]
from pipecat.processors.frame_processor import FrameProcessor  # pyright: ignore[reportMissingImports]
from pipecat.services.openai.realtime.llm import OpenAIRealtimeLLMService  # pyright: ignore[reportMissingImports]
from pipecat.workers.runner import WorkerRunner  # pyright: ignore[reportMissingImports]

_SECONDS_MAX = 60.0
_FRAME_BYTES = 2 * 480


class Sink(FrameProcessor):
    """What the client hands on."""

    def __init__(self) -> None:
        super().__init__()
        self.answers: list[dict[str, Any]] = [{"words": "", "audio_bytes": 0}]
        self.errors: list[str] = []
        self.some = asyncio.Event()

    async def process_frame(self, frame: Any, direction: Any) -> None:
        await super().process_frame(frame, direction)
        if isinstance(frame, TTSAudioRawFrame):
            self.answers[-1]["audio_bytes"] += len(frame.audio)
        elif isinstance(frame, TTSTextFrame):
            self.answers[-1]["words"] += frame.text
        elif isinstance(frame, ErrorFrame):
            self.errors.append(str(frame.error))
            self.some.set()
        elif isinstance(frame, LLMFullResponseEndFrame):
            self.answers.append({"words": "", "audio_bytes": 0})
            self.some.set()
        await self.push_frame(frame, direction)

    async def ended(self) -> None:
        async with asyncio.timeout(_SECONDS_MAX):
            await self.some.wait()
        self.some.clear()


async def talked(task: dict[str, Any]) -> dict[str, Any]:
    service = OpenAIRealtimeLLMService(
        api_key=task["key"],
        base_url=task["url"],
        settings=OpenAIRealtimeLLMService.Settings(model=task["model"], system_instruction="Be brief."),
    )
    sent: list[str] = []
    send = service.send_client_event

    async def noted(event: Any) -> None:
        sent.append(event.type)
        await send(event)

    service.send_client_event = noted
    sink = Sink()
    worker = PipelineWorker(Pipeline([service, sink]), cancel_on_idle_timeout=False, enable_rtvi=False)
    runner = WorkerRunner(handle_sigint=False)
    await runner.add_workers(worker)
    running = asyncio.create_task(runner.run())
    context = LLMContext(messages=[{"role": "user", "content": task["text"]}])
    await worker.queue_frame(LLMContextFrame(context))
    await sink.ended()
    pcm = base64.b64decode(task["pcm"])
    for start in range(0, len(pcm), _FRAME_BYTES):
        audio = pcm[start : start + _FRAME_BYTES]
        await worker.queue_frame(InputAudioRawFrame(audio=audio, sample_rate=24_000, num_channels=1))
    if pcm:
        await sink.ended()
    await runner.cancel()
    await asyncio.wait({running}, timeout=10)
    return {"sent": sorted(set(sent)), "answers": sink.answers[:-1], "errors": sink.errors}


if __name__ == "__main__":
    logger.remove()
    print(json.dumps(asyncio.run(talked(json.load(sys.stdin)))), flush=True)
