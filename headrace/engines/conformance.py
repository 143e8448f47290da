"""Tests whether an engine keeps the contract of `Engine`; its own package runs them.

For one that paints or speaks: `headrace.engines.media_conformance`.

    # tests/test_conformance.py
    import pytest
    from headrace.engines.conformance import *
    from headrace.engines.conformance import opened

    @pytest.fixture(scope="module")
    def engine():
        return opened("shout", volume=3)

A module has one engine on one event loop, closed at the end. The tests demand nothing of an answer's wording. Engines
are asked through `headrace.engines.asking`, as in a run; assertions say their values, since pytest rewrites none here.
"""

import asyncio
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import aclosing
from typing import Any

import pytest

from headrace.engines.asking import answer_of, answers_of, pieces_of
from headrace.engines.base import Answer, Engine, LoadedModel, Message, Piece, Turn, checked
from headrace.engines.deployment import Deployment
from headrace.engines.event_loop import LoopThread
from headrace.engines.registry import engine_kind, open_engine
from headrace.store.objects import ObjectStore
from headrace.version_sets.sets import Decoding, EngineSpec, Member

__all__ = [
    "ask",
    "test_a_batch_has_an_answer_for_each_turn_in_order",
    "test_a_closed_stream_leaves_the_engine_well",
    "test_a_given_up_turn_leaves_the_engine_well",
    "test_a_turn_gets_the_same_bytes_in_any_batch",
    "test_a_turn_is_answered_in_any_script",
    "test_an_answer_ends_before_a_stop_text",
    "test_an_answer_has_at_most_as_many_tokens_as_were_asked_for",
    "test_an_engine_is_what_its_entry_point_says",
    "test_pieces_make_up_an_answer_and_the_last_one_ends_it",
    "test_turns_at_once_are_all_answered",
]

Ask = Callable[[Coroutine[Any, Any, Any]], Any]
TEXTS = {
    "Latin": "Name the parts of a water mill.",
    "Chinese": "说出水车的部件。",
    "Arabic": "سمِّ أجزاء الطاحونة المائية.",
    "Hindi": "पनचक्की के भागों के नाम बताइए।",
    "Thai": "บอกชื่อส่วนต่างๆ ของกังหันน้ำ",
    "an emoji": "👩‍🔧 and a 🛠️",
    "braces": "{text} and {0} and %s",
    "lines": "one\n\ntwo\r\n\tthree",
}


def opened(
    name: str,
    *,
    objects: ObjectStore | None = None,
    member: Member | None = None,
    deployment: Deployment | None = None,
    **options: Any,
) -> Engine:
    """Opens the installed engine of that name as a version set would.

    Args:
        objects: the store with the weights; an engine without weights needs none.
        member: the model's member; None: one without weights.
    """
    kind = engine_kind(name)
    decoding = Decoding(temperature=0.7, top_p=0.9, max_new_tokens=16)
    member = member or Member(
        role="writer",
        model_name="model",
        model_version="1",
        weights_digest="",
        weights_uri="",
        system_prompt="",
        user_template="{text}",
        decoding=decoding,
    )
    spec = kind.spec(kind.options(**options))
    return open_engine(member, spec, objects, deployment or Deployment())  # pyright: ignore[reportArgumentType]


def turn(text: str = TEXTS["Latin"], **changes: Any) -> Turn:
    fields = {"unit": "unit", "temperature": 0.7, "top_p": 0.9, "max_tokens": 8, "seed": 7, "stop": ()}
    return Turn(messages=(Message(role="user", content=text),), **(fields | changes))


@pytest.fixture(scope="module")
def ask(engine: LoadedModel) -> Iterator[Ask]:
    """Runs awaitables on the engine's loop; closes the engine twice at the end: a second close must be harmless."""
    loop = LoopThread()
    yield loop.run
    for _ in range(2):
        loop.run(engine.close())
    loop.close()


def test_an_engine_is_what_its_entry_point_says(engine: LoadedModel) -> None:
    kind = engine_kind(engine.name)
    build = EngineSpec(name=kind.name, build=kind.build, cpu=kind.cpu).whole_build
    is_, says = (engine.build, engine.deterministic), (build, kind.deterministic and not engine.mixes_rows)
    assert is_ == says, f"build and deterministic must be the kind's {says}, got {is_}"


@pytest.mark.parametrize("script", TEXTS)
def test_a_turn_is_answered_in_any_script(engine: Engine, ask: Ask, script: str) -> None:
    ask(answer_of(engine, turn(TEXTS[script])))


def test_pieces_make_up_an_answer_and_the_last_one_ends_it(engine: Engine, ask: Ask) -> None:
    async def drawn() -> list[Piece]:
        # Not by `pieces_of`, which reads no further than the first finish reason.
        return [checked(piece, Piece, engine.name) async for piece in engine.stream(turn())]

    pieces = ask(drawn())
    reasons = [piece.finish_reason for piece in pieces]
    assert reasons, "a stream must have a piece, got none"
    assert reasons[-1] is not None, f"the last of {len(reasons)} pieces must have a finish_reason, got {pieces[-1]}"
    assert set(reasons[:-1]) <= {None}, f"only the last piece may have a finish_reason, got {reasons}"
    if engine.deterministic:
        text, whole = "".join(piece.text for piece in pieces), ask(answer_of(engine, turn())).text
        assert text == whole, f"the pieces make up {text!r}, the whole answer is {whole!r}"


def test_a_batch_has_an_answer_for_each_turn_in_order(engine: Engine, ask: Ask) -> None:
    none = ask(engine.answer_together([]))
    assert none == [], f"an empty batch must have no answers, got {none}"
    turns = [turn(text, seed=seed) for seed, text in enumerate(TEXTS.values())]
    counts = [answer.num_prompt_tokens for answer in ask(_answers(engine, turns))]
    if engine.deterministic:
        turned = [answer.num_prompt_tokens for answer in ask(_answers(engine, turns[::-1]))]
        assert turned[::-1] == counts, f"num_prompt_tokens {counts} of a batch are {turned} of the turned batch"


def test_a_turn_gets_the_same_bytes_in_any_batch(engine: Engine, ask: Ask) -> None:
    """Only for engines that claim it."""
    turns = [turn(text, seed=seed) for seed, text in enumerate(TEXTS.values())]
    if not engine.deterministic:
        ask(_answers(engine, turns))
        return
    whole = ask(_answers(engine, turns))
    ways = {
        "asked again": ask(_answers(engine, turns)),
        "turned": ask(_answers(engine, turns[::-1]))[::-1],
        "one by one": [ask(_answers(engine, [one]))[0] for one in turns],
        "in parts": [*ask(_answers(engine, turns[:3])), *ask(_answers(engine, turns[3:]))],
    }
    for way, answers in ways.items():
        assert answers == whole, f"deterministic, but a batch gives {whole}, {way} it gives {answers}"


def test_an_answer_has_at_most_as_many_tokens_as_were_asked_for(engine: Engine, ask: Ask) -> None:
    short = turn(max_tokens=1)
    for answer in _all_ways(engine, ask, short):
        assert (answer.num_output_tokens or 0) <= 1, f"max_tokens is 1, got {answer}"


def test_an_answer_ends_before_a_stop_text(engine: Engine, ask: Ask) -> None:
    whole = ask(answer_of(engine, turn()))
    stop = whole.text.strip()[-2:]
    if not stop:
        pytest.skip("The model says nothing here.")
    stopped = turn(stop=(stop,))
    for answer in _all_ways(engine, ask, stopped):
        assert stop not in answer.text, f"stop is {stop!r}, got {answer}"


def test_turns_at_once_are_all_answered(engine: Engine, ask: Ask) -> None:
    async def at_once() -> list[Answer]:
        return await asyncio.gather(*(answer_of(engine, turn(seed=seed)) for seed in range(12)))

    ask(at_once())


def test_a_closed_stream_leaves_the_engine_well(engine: Engine, ask: Ask) -> None:
    async def first_piece() -> None:
        async with aclosing(pieces_of(engine, turn())) as pieces:
            await anext(pieces)

    ask(first_piece())
    ask(answer_of(engine, turn()))


def test_a_given_up_turn_leaves_the_engine_well(engine: Engine, ask: Ask) -> None:
    async def given_up() -> None:
        task = asyncio.create_task(answer_of(engine, turn(max_tokens=16)))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    ask(given_up())
    ask(answer_of(engine, turn()))


def _all_ways(engine: Engine, ask: Ask, asked: Turn) -> list[Answer]:
    """Its answers alone, in a batch, and in pieces, which are put together."""

    async def in_pieces() -> Answer:
        pieces = [piece async for piece in pieces_of(engine, asked)]
        assert pieces, "a stream must have a piece, got none"
        return Answer(
            text="".join(piece.text for piece in pieces),
            finish_reason=pieces[-1].finish_reason or "stop",
            num_output_tokens=pieces[-1].num_output_tokens,
        )

    return [ask(answer_of(engine, asked)), *ask(_answers(engine, [asked])), ask(in_pieces())]


async def _answers(engine: Engine, turns: Sequence[Turn]) -> list[Answer]:
    """Raises: TurnRefused, EngineBusy, EngineFailed: a turn has no answer."""
    answers: list[Answer] = []
    for outcome in await answers_of(engine, turns):
        if not isinstance(outcome, Answer):
            raise outcome
        answers.append(outcome)
    return answers
