"""The in-process engine with a real model of a million parameters."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from headrace.engines.base import Answer, EngineFailed, Message, Piece, TurnRefused
from headrace.engines.deployment import Deployment
from headrace.engines.local.engine import LocalEngine
from headrace.engines.registry import open_engine
from headrace.store.local import LocalStore
from headrace.store.sealed_directory import seal_directory
from headrace.version_sets.sets import EngineSpec
from tests.rollout.builders import make_member
from tests.serving.engines.turns import make_turn

SPEC = EngineSpec(name="transformers", dtype="float32")


@pytest.fixture
def engine(tiny_model: Path) -> Iterator[LocalEngine]:
    engine = LocalEngine(tiny_model, make_member(), SPEC)
    yield engine
    asyncio.run(engine.close())


async def pieces_of(engine: LocalEngine, **changes: Any) -> list[Piece]:
    return [piece async for piece in engine.stream(make_turn(**changes))]


async def answers(engine: LocalEngine, *seeds: int) -> list[Answer]:
    return await asyncio.gather(*(engine.answer(make_turn(f"Turn {seed}", seed=seed)) for seed in seeds))


def test_a_stream_adds_up_to_the_answer(engine: LocalEngine) -> None:
    answer, pieces = asyncio.run(engine.answer(make_turn())), asyncio.run(pieces_of(engine))
    assert "".join(piece.text for piece in pieces) == answer.text
    assert len(pieces) > 5
    assert pieces[-1].finish_reason == answer.finish_reason
    assert (pieces[-1].num_prompt_tokens, pieces[-1].num_output_tokens) == (
        answer.num_prompt_tokens,
        answer.num_output_tokens,
    )


def test_turns_side_by_side_get_what_each_gets_alone(engine: LocalEngine) -> None:
    together = asyncio.run(answers(engine, *range(12)))
    alone = [asyncio.run(engine.answer(make_turn(f"Turn {seed}", seed=seed))) for seed in range(12)]
    assert together == alone


def test_a_turn_joins_others_in_their_middle(engine: LocalEngine) -> None:
    async def late() -> tuple[list[Piece], Answer]:
        first = aiter(engine.stream(make_turn("A long story", temperature=0.0, max_tokens=60)))
        seen = [await anext(first)]
        joined = await engine.answer(make_turn("Turn 3", seed=3, max_tokens=5))
        return [*seen, *[piece async for piece in first]], joined

    pieces, joined = asyncio.run(late())
    alone = asyncio.run(engine.answer(make_turn("A long story", temperature=0.0, max_tokens=60)))
    assert "".join(piece.text for piece in pieces) == alone.text
    assert joined == asyncio.run(engine.answer(make_turn("Turn 3", seed=3, max_tokens=5)))


def test_a_turn_whose_caller_is_gone_leaves_the_batch(engine: LocalEngine) -> None:
    async def leave() -> Answer:
        task = asyncio.create_task(engine.answer(make_turn(max_tokens=400)))
        await asyncio.sleep(0.05)
        task.cancel()
        return await engine.answer(make_turn("Turn 1", seed=1, max_tokens=3))

    assert (asyncio.run(leave()).num_output_tokens or 0) in (1, 2, 3)


def test_a_stop_text_ends_an_answer_before_itself(engine: LocalEngine) -> None:
    whole = asyncio.run(engine.answer(make_turn(temperature=0.0))).text
    stop = whole[len(whole) // 2 : len(whole) // 2 + 3]
    answer = asyncio.run(engine.answer(make_turn(temperature=0.0, stop=(stop,))))
    assert (answer.text, answer.finish_reason) == (whole[: whole.find(stop)], "stop")


def test_a_turn_too_long_for_the_model_is_refused_with_the_numbers(engine: LocalEngine) -> None:
    with pytest.raises(TurnRefused, match=r"max_new_tokens=600 exceed the model's 512 positions") as refused:
        asyncio.run(engine.answer(make_turn(max_tokens=600)))
    assert refused.value.status == 400
    assert "and max_tokens is 600; the model has 512 positions for both" in refused.value.for_clients


def test_a_failing_model_fails_its_turns_and_goes_on(engine: LocalEngine) -> None:
    bad = make_turn(messages=(Message(role="user", content="x"),), seed=-(2**70))
    with pytest.raises(EngineFailed, match="The model failed while it decoded"):
        asyncio.run(engine.answer(bad))
    assert (asyncio.run(engine.answer(make_turn())).num_output_tokens or 0) > 0


def test_closing_ends_turns_under_way(tiny_model: Path) -> None:
    async def close_early() -> None:
        engine = LocalEngine(tiny_model, make_member(), SPEC)
        task = asyncio.create_task(engine.answer(make_turn(max_tokens=400, temperature=5.0)))
        await asyncio.sleep(0.02)
        await engine.close()
        await task

    with pytest.raises(EngineFailed, match="was closed"):
        asyncio.run(close_early())


def test_weights_are_opened_from_the_store_by_digest(tiny_model: Path, tmp_path: Path) -> None:
    objects = LocalStore(tmp_path)
    member = make_member(weights_digest=seal_directory(objects, tiny_model).digest)
    engine = open_engine(member, SPEC, objects, Deployment())
    assert asyncio.run(engine.answer(make_turn())).replica == "in process"
    asyncio.run(engine.close())
