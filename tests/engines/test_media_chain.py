"""A chain that ends in a picture or a recording: what its last role is asked, with which seed, and what is reported."""

import asyncio
import hashlib
from dataclasses import replace
from typing import Any

import pytest
import xxhash

from headrace.engines.base import Answer, Engine, EngineFailed, Turn
from headrace.engines.chain import LoadedRole, Step, step_seed, try_maker
from headrace.engines.echo import EchoEngine
from headrace.engines.echo_media import EchoMediaEngine
from headrace.engines.hearing import HearingTurn
from headrace.engines.media import MediaAnswer, MediaEngine, MediaTurn
from headrace.engines.media_chain import LoadedMaker, Made, MediaChain, MediaWish
from headrace.version_sets.media_settings import Picture, Speech
from headrace.version_sets.sets import Member
from tests.generation.builders import make_member

WRITER = make_member(role="writer")
PAINTER = make_member(
    role="painter", decoding=None, picture=Picture(width=32, height=24), user_template="A drawing of {text} ({prompt})"
)
SPEAKER = make_member(role="speaker", decoding=None, speech=Speech(voice="amy"), user_template="{text}")


def make_chain(maker: Member = PAINTER, *writers: Engine, engine: MediaEngine | None = None) -> MediaChain:
    loaded = engine or EchoMediaEngine(maker)
    facts = asyncio.run(try_maker(maker, EchoMediaEngine(maker)))
    roles = tuple(LoadedRole(member=WRITER, engine=writer) for writer in writers)
    return MediaChain(id="set", writers=roles, maker=LoadedMaker(member=maker, engine=loaded, facts=facts))


def made(chain: MediaChain, steps: list[Step] | None = None, *, seed: int = 7, **wish: Any) -> Made:
    found: list[Step] = [] if steps is None else steps
    asked = replace(MediaWish(prompt="a mill"), **wish)
    return asyncio.run(chain.make(asked, unit="u", seed=seed, report=found.append))


def test_the_painter_is_asked_in_its_template_for_what_the_writers_wrote() -> None:
    steps: list[Step] = []
    found = made(make_chain(PAINTER, EchoEngine(WRITER)), steps)
    assert found.asked == f"A drawing of {steps[0].text} (a mill)"
    # The first role gets the client's seed unchanged, the second one that follows from it, whatever the first wrote.
    seeds = [step.turn.seed for step in steps if not isinstance(step.turn, HearingTurn)]
    assert seeds == [7, step_seed(7, 1)]
    # The same turn, asked of the engine alone.
    turn = MediaTurn(unit="other", text=found.asked, seed=step_seed(7, 1))
    assert found.content == asyncio.run(EchoMediaEngine(PAINTER).make(turn)).content


def test_a_chain_without_writers_asks_for_the_clients_text_with_the_clients_seed() -> None:
    found = made(make_chain(replace(PAINTER, user_template="{text}")))
    turn = MediaTurn(unit="u", text="a mill", seed=7)
    painter = EchoMediaEngine(replace(PAINTER, user_template="{text}"))
    assert (found.asked, found.content) == ("a mill", asyncio.run(painter.make(turn)).content)


def test_a_step_reports_what_was_made_and_not_its_bytes() -> None:
    steps: list[Step] = []
    found = made(make_chain(SPEAKER), steps, speed=2.0)
    [step] = steps
    assert (step.role, step.finish, step.error, step.replica) == ("speaker", "stop", "", "echo")
    assert (step.num_bytes, step.digest) == (len(found.content), xxhash.xxh3_128(found.content).hexdigest())
    assert step.facts == found.facts
    assert step.facts is not None
    assert step.facts.media_type == "audio/wav"
    assert isinstance(step.turn, MediaTurn)
    assert step.turn.speed == 2.0
    assert found.facts.duration_seconds != made(make_chain(SPEAKER)).facts.duration_seconds


class Silent(Engine):
    name = "silent"

    async def answer(self, turn: Turn) -> Answer:
        return Answer(text=" \n", finish_reason="stop")


def test_nothing_is_made_of_nothing() -> None:
    steps: list[Step] = []
    with pytest.raises(EngineFailed, match="writer wrote nothing that painter could be asked for"):
        made(make_chain(PAINTER, Silent()), steps)
    assert [step.role for step in steps] == ["writer"]


class Wrong(MediaEngine):
    """Gives whatever it was made with, or raises it."""

    name = "wrong"

    def __init__(self, answer: Any) -> None:
        self.answer = answer

    async def make(self, turn: MediaTurn) -> MediaAnswer:
        if isinstance(self.answer, BaseException):
            raise self.answer
        return self.answer


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (None, "answered None, which must be a MediaAnswer"),
        (MediaAnswer(content=b""), "painter made nothing"),
        (MediaAnswer(content=b"<html>"), "painter made no PNG, JPEG or WebP that can be decoded"),
        (ValueError("a secret"), r"^Engine 'wrong' raised ValueError\.$"),
        (SystemExit(3), "raised SystemExit, and nobody had ended its work"),
    ],
)
def test_what_an_engine_makes_is_believed_only_as_far_as_its_bytes(answer: Any, words: str) -> None:
    steps: list[Step] = []
    with pytest.raises(EngineFailed, match=words):
        made(make_chain(engine=Wrong(answer)), steps)
    [step] = steps
    assert (step.error, step.finish, step.digest, step.facts) == ("EngineFailed", "", "", None)


def test_a_caller_who_leaves_ends_the_work_and_the_step_says_so() -> None:
    steps: list[Step] = []

    async def scenario() -> None:
        chain = make_chain_within(EchoMediaEngine(PAINTER, item_seconds=60))
        wish = MediaWish(prompt="a mill")
        task = asyncio.create_task(chain.make(wish, unit="u", seed=1, report=steps.append))
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    trial = make_chain().maker.facts

    def make_chain_within(engine: MediaEngine) -> MediaChain:
        return MediaChain(id="set", writers=(), maker=LoadedMaker(member=PAINTER, engine=engine, facts=trial))

    asyncio.run(scenario())
    assert [step.error for step in steps] == ["cancelled"]


def test_a_seed_of_a_later_step_is_what_it_was_for_chats() -> None:
    """`step_seed` by hand: of its parts with their lengths, as `headrace.keys.digest_text` writes them."""
    parts = b"".join(b"%d:%s" % (len(part), part) for part in (b"step", b"7", b"1"))
    assert step_seed(7, 1) == int(hashlib.sha256(parts).hexdigest()[:16], 16) >> 1
