"""The echo engine for live turns, and what all engines share: opening, stop texts."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.errors import InvalidInput
from headrace.generation.campaign import EngineSettings
from headrace.generation.engines.base import GenerationRequest
from headrace.generation.engines.echo import EchoEngine
from headrace.rollout.version_sets import Decoding, EngineSpec
from headrace.serving.engines.base import Piece
from headrace.serving.engines.echo import EchoServingEngine
from headrace.serving.engines.openai_server import OpenAIServerEngine
from headrace.serving.engines.opening import open_serving_engine
from headrace.serving.engines.stop_texts import StopWatch, cut_at_stop
from headrace.serving.service import Role, Service
from headrace.store.local import LocalStore
from tests.rollout.builders import make_member
from tests.serving.engines.turns import make_turn


def make_service(**changes: object) -> Service:
    role = Role(
        model="tiny",
        version="1",
        registered=False,
        decoding=Decoding(temperature=0.7, top_p=0.9, max_new_tokens=40),
        engine=EngineSettings(name="echo"),
    )
    return Service(**({"name": "answers", "roles": {"writer": role}, "chain": ("writer",)} | changes))  # pyright: ignore


async def pieces_of(engine: EchoServingEngine, **changes: Any) -> list[Piece]:
    return [piece async for piece in engine.stream(make_turn(**changes))]


def test_a_turn_gets_the_words_of_the_bulk_engine_for_the_same_seed() -> None:
    answer = asyncio.run(EchoServingEngine(make_member()).answer(make_turn(seed=5)))
    [row] = EchoEngine(make_member()).generate([GenerationRequest(row_id="a", prompt="", seed=5)])
    assert (answer.text, answer.num_output_tokens) == (row.text, row.num_output_tokens)
    assert (answer.finish_reason, answer.num_prompt_tokens) == ("stop", 4)


def test_a_stream_adds_up_to_the_answer_and_counts_in_its_last_piece() -> None:
    engine = EchoServingEngine(make_member())
    answer, pieces = asyncio.run(engine.answer(make_turn())), asyncio.run(pieces_of(engine))
    assert "".join(piece.text for piece in pieces) == answer.text
    assert [piece.finish_reason for piece in pieces[:-1]] == [None] * (len(pieces) - 1)
    assert (pieces[-1].finish_reason, pieces[-1].num_output_tokens) == ("stop", answer.num_output_tokens)


def test_fewer_tokens_cut_an_answer_off() -> None:
    answer = asyncio.run(EchoServingEngine(make_member()).answer(make_turn(max_tokens=2)))
    assert (answer.finish_reason, answer.num_output_tokens, len(answer.text.split())) == ("length", 2, 2)


def test_a_stop_text_ends_an_answer_before_itself() -> None:
    engine = EchoServingEngine(make_member())
    words = asyncio.run(engine.answer(make_turn())).text.split()
    answer = asyncio.run(engine.answer(make_turn(stop=(words[3],))))
    assert (answer.text.split(), answer.finish_reason) == (words[:3], "stop")


def test_each_engine_is_opened_by_its_name(tmp_path: Path) -> None:
    objects, service = LocalStore(tmp_path), make_service(replicas={"http://a/v1": ("http://b/v1", "http://c/v1")})
    echo = open_serving_engine(make_member(), EngineSpec(name="echo"), service, objects)
    server = EngineSpec(name="openai_http", base_url="http://a/v1", model="served")
    engine = open_serving_engine(make_member(), server, service, objects)
    assert isinstance(echo, EchoServingEngine)
    assert isinstance(engine, OpenAIServerEngine)
    assert [replica.name for replica in engine.dispatcher.replicas] == ["http://b/v1", "http://c/v1"]


def test_an_unknown_engine_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="asks for the engine 'steam', which this Headrace does not have"):
        open_serving_engine(make_member(), EngineSpec(name="steam"), make_service(), LocalStore(tmp_path))


def test_a_server_without_an_address_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="openai_http needs base_url and model, got None and None"):
        open_serving_engine(make_member(), EngineSpec(name="openai_http"), make_service(), LocalStore(tmp_path))


@given(
    pieces=st.lists(st.text("ab#", max_size=4)),
    stops=st.lists(st.text("ab#", min_size=1, max_size=3), max_size=3),
)
def test_a_stop_text_ends_a_stream_where_it_ends_the_whole_text(pieces: list[str], stops: list[str]) -> None:
    watch, given_out, is_cut = StopWatch(stops), "", False
    for piece in pieces:
        text, is_cut = watch.feed(piece)
        given_out += text
        if is_cut:
            break
    else:
        given_out += watch.rest()
    whole, whole_is_cut = cut_at_stop("".join(pieces), stops)
    # A stop text that is part of a longer one may end the stream before the longer one is there.
    assert is_cut == whole_is_cut
    assert given_out == whole or (is_cut and given_out.startswith(whole))
