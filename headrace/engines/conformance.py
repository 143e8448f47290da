"""Tests whether an engine keeps the contract of `Engine`; its own package runs them.

    # tests/test_conformance.py
    import pytest
    from headrace.engines.conformance import *
    from headrace.engines.conformance import opened

    @pytest.fixture(scope="module")
    def engine():
        return opened("shout", volume=3)

A module has one engine on one event loop, closed at the end. The tests demand nothing of an answer's wording.
"""

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from contextlib import aclosing
from typing import Any

import pytest

from headrace.engines.base import Answer, Engine, Message, Piece, Turn
from headrace.engines.deployment import Deployment
from headrace.engines.event_loop import LoopThread
from headrace.engines.registry import engine_kind, open_engine
from headrace.store.objects import ObjectStore
from headrace.version_sets.sets import Decoding, Member

__all__ = [
    "ask",
    "test_a_batch_has_an_answer_for_each_turn_in_order",
    "test_a_closed_stream_leaves_the_engine_well",
    "test_a_given_up_turn_leaves_the_engine_well",
    "test_a_turn_is_answered_in_any_script",
    "test_an_answer_ends_before_a_stop_text",
    "test_an_answer_has_at_most_as_many_tokens_as_were_asked_for",
    "test_an_engine_is_what_its_entry_point_says",
    "test_pieces_make_up_an_answer_and_the_last_one_ends_it",
    "test_the_same_batch_gives_the_same_bytes",
    "test_turns_at_once_are_all_answered",
]

Ask = Callable[[Coroutine[Any, Any, Any]], Any]
_TEXTS = {
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


def turn(text: str = _TEXTS["Latin"], **changes: Any) -> Turn:
    fields = {"unit": "unit", "temperature": 0.7, "top_p": 0.9, "max_tokens": 8, "seed": 7, "stop": ()}
    return Turn(messages=(Message(role="user", content=text),), **(fields | changes))


@pytest.fixture(scope="module")
def ask(engine: Engine) -> Iterator[Ask]:
    """Runs awaitables on the engine's loop; closes the engine twice at the end: a second close must be harmless."""
    loop = LoopThread()
    yield loop.run
    for _ in range(2):
        loop.run(engine.close())
    loop.close()


def test_an_engine_is_what_its_entry_point_says(engine: Engine) -> None:
    kind = engine_kind(engine.name)
    assert (engine.build, engine.deterministic) == (kind.build, kind.deterministic)


@pytest.mark.parametrize("script", _TEXTS)
def test_a_turn_is_answered_in_any_script(engine: Engine, ask: Ask, script: str) -> None:
    _check(ask(engine.answer(turn(_TEXTS[script]))))


def test_pieces_make_up_an_answer_and_the_last_one_ends_it(engine: Engine, ask: Ask) -> None:
    async def pieces() -> list[Piece]:
        return [piece async for piece in engine.stream(turn())]

    *before, last = ask(pieces())
    assert [piece for piece in before if piece.finish_reason is not None] == []
    text = "".join(piece.text for piece in [*before, last])
    assert last.finish_reason is not None
    _check(
        Answer(
            text=text,
            finish_reason=last.finish_reason,
            num_prompt_tokens=last.num_prompt_tokens,
            num_output_tokens=last.num_output_tokens,
        )
    )
    if engine.deterministic:
        assert text == ask(engine.answer(turn())).text


def test_a_batch_has_an_answer_for_each_turn_in_order(engine: Engine, ask: Ask) -> None:
    assert ask(engine.answer_together([])) == []
    turns = [turn(text, seed=seed) for seed, text in enumerate(_TEXTS.values())]
    answers = ask(engine.answer_together(turns))
    assert len(answers) == len(turns)
    for answer in answers:
        _check(answer)
    if engine.deterministic:
        turned = ask(engine.answer_together(turns[::-1]))
        assert [answer.num_prompt_tokens for answer in turned[::-1]] == [one.num_prompt_tokens for one in answers]


def test_the_same_batch_gives_the_same_bytes(engine: Engine, ask: Ask) -> None:
    """Only for engines that claim it."""
    turns = [turn(text, seed=seed) for seed, text in enumerate(_TEXTS.values())]
    first, second = (ask(engine.answer_together(turns)) for _ in range(2))
    assert not engine.deterministic or first == second


def test_an_answer_has_at_most_as_many_tokens_as_were_asked_for(engine: Engine, ask: Ask) -> None:
    for answer in [ask(engine.answer(turn(max_tokens=1))), *ask(engine.answer_together([turn(max_tokens=1)]))]:
        assert (answer.num_output_tokens or 0) <= 1


def test_an_answer_ends_before_a_stop_text(engine: Engine, ask: Ask) -> None:
    whole = ask(engine.answer(turn()))
    stop = whole.text.strip()[-2:]
    if not stop:
        pytest.skip("The model says nothing here.")
    for answer in [ask(engine.answer(turn(stop=(stop,)))), *ask(engine.answer_together([turn(stop=(stop,))]))]:
        assert stop not in answer.text


def test_turns_at_once_are_all_answered(engine: Engine, ask: Ask) -> None:
    async def at_once() -> list[Answer]:
        return await asyncio.gather(*(engine.answer(turn(seed=seed)) for seed in range(12)))

    for answer in ask(at_once()):
        _check(answer)


def test_a_closed_stream_leaves_the_engine_well(engine: Engine, ask: Ask) -> None:
    async def first_piece() -> None:
        async with aclosing(engine.stream(turn())) as pieces:
            await anext(pieces)

    ask(first_piece())
    _check(ask(engine.answer(turn())))


def test_a_given_up_turn_leaves_the_engine_well(engine: Engine, ask: Ask) -> None:
    async def given_up() -> None:
        task = asyncio.create_task(engine.answer(turn(max_tokens=16)))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    ask(given_up())
    _check(ask(engine.answer(turn())))


def _check(answer: object) -> None:
    assert isinstance(answer, Answer), answer
    assert isinstance(answer.text, str)
    answer.text.encode()
    assert answer.finish_reason in ("stop", "length", "content_filter")
    for count in (answer.num_prompt_tokens, answer.num_output_tokens):
        assert count is None or (type(count) is int and count >= 0)
