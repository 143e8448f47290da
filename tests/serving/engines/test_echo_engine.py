"""The echo engine, and what all engines share: opening, stop texts."""

import asyncio
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.engines.base import Piece
from headrace.engines.deployment import Deployment
from headrace.engines.echo import EchoEngine
from headrace.engines.local.stop_texts import StopWatch, cut_at_stop
from headrace.engines.openai.client import OpenAIEngine
from headrace.engines.registry import open_engine
from headrace.engines.rows import ChainRows, GenerationRequest
from headrace.errors import InvalidInput
from headrace.store.local import LocalStore
from headrace.version_sets.sets import EngineSpec
from tests.rollout.builders import make_member
from tests.serving.engines.turns import make_turn


async def pieces_of(engine: EchoEngine, **changes: Any) -> list[Piece]:
    return [piece async for piece in engine.stream(make_turn(**changes))]


def test_a_turn_gets_the_words_of_the_bulk_engine_for_the_same_seed() -> None:
    answer = asyncio.run(EchoEngine(make_member()).answer(make_turn(seed=5)))
    with closing(ChainRows.of(make_member(), EchoEngine(make_member()))) as rows:
        [row] = rows.generate([GenerationRequest(row_id="a", prompt="", seed=5)])
    assert (answer.text, answer.num_output_tokens) == (row.text, row.num_output_tokens)
    assert (answer.finish_reason, answer.num_prompt_tokens) == ("stop", 4)


def test_a_stream_adds_up_to_the_answer_and_counts_in_its_last_piece() -> None:
    engine = EchoEngine(make_member())
    answer, pieces = asyncio.run(engine.answer(make_turn())), asyncio.run(pieces_of(engine))
    assert "".join(piece.text for piece in pieces) == answer.text
    assert [piece.finish_reason for piece in pieces[:-1]] == [None] * (len(pieces) - 1)
    assert (pieces[-1].finish_reason, pieces[-1].num_output_tokens) == ("stop", answer.num_output_tokens)


def test_fewer_tokens_cut_an_answer_off() -> None:
    answer = asyncio.run(EchoEngine(make_member()).answer(make_turn(max_tokens=2)))
    assert (answer.finish_reason, answer.num_output_tokens, len(answer.text.split())) == ("length", 2, 2)


def test_a_stop_text_ends_an_answer_before_itself() -> None:
    engine = EchoEngine(make_member())
    words = asyncio.run(engine.answer(make_turn())).text.split()
    answer = asyncio.run(engine.answer(make_turn(stop=(words[3],))))
    assert (answer.text.split(), answer.finish_reason) == (words[:3], "stop")


def test_each_engine_is_opened_by_its_name(tmp_path: Path) -> None:
    objects, deployment = LocalStore(tmp_path), Deployment(replicas={"http://a/v1": ("http://b/v1", "http://c/v1")})
    echo = open_engine(make_member(), EngineSpec(name="echo"), objects, deployment)
    server = EngineSpec(name="openai_http", base_url="http://a/v1", model="served")
    engine = open_engine(make_member(), server, objects, deployment)
    assert isinstance(echo, EchoEngine)
    assert isinstance(engine, OpenAIEngine)
    assert [replica.name for replica in engine.dispatcher.replicas] == ["http://b/v1", "http://c/v1"]


def test_an_unknown_engine_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="No engine 'steam' is installed; there are "):
        open_engine(make_member(), EngineSpec(name="steam"), LocalStore(tmp_path), Deployment())


def test_a_server_without_an_address_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="needs base_url and model, got base_url=None, model=None"):
        open_engine(make_member(), EngineSpec(name="openai_http"), LocalStore(tmp_path), Deployment())


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
