"""Rows of a chain: roles in order, each over the whole batch, and who is to blame for a row without an answer."""

from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

from headrace.engines.base import Answer, Engine, EngineBusy, EngineFailed, Turn, TurnRefused
from headrace.engines.chain import LoadedRole, RoleChain
from headrace.engines.rows import ChainRows, GenerationRequest
from headrace.errors import EngineUnavailable, InvalidInput
from tests.generation.builders import make_member


class Scripted(Engine):
    """Answers with its word around what it is asked, or raises what a test says."""

    name = "scripted"
    deterministic = True

    def __init__(self, word: str = "", fails: Any = lambda text: None) -> None:
        self.word, self.fails = word, fails
        self.turns: list[Turn] = []
        self.num_closed = 0

    async def answer(self, turn: Turn) -> Answer:
        self.turns.append(turn)
        text = turn.messages[-1].content
        if error := self.fails(text):
            raise error
        return Answer(text=f" {self.word}({text}) ", finish_reason="stop", num_prompt_tokens=1, num_output_tokens=2)

    async def close(self) -> None:
        self.num_closed += 1


def rows_of(*engines: Scripted) -> ChainRows:
    roles = [
        LoadedRole(member=make_member(role=f"role-{place}", system_prompt=f"s{place}"), engine=engine)
        for place, engine in enumerate(engines)
    ]
    return ChainRows(RoleChain(id="set", roles=tuple(roles)))


def requests(*prompts: str) -> list[GenerationRequest]:
    return [GenerationRequest(row_id=f"row {prompt}", prompt=prompt, seed=7) for prompt in prompts]


@pytest.fixture
def chain() -> Iterator[tuple[ChainRows, Scripted, Scripted]]:
    first, second = Scripted("w"), Scripted("e")
    with closing(rows_of(first, second)) as rows:
        yield rows, first, second


def test_each_role_gets_the_answer_of_the_one_before_it(chain: tuple[ChainRows, Scripted, Scripted]) -> None:
    rows, first, second = chain
    assert [row.text for row in rows.generate(requests("a", "b"))] == ["e( w(a) )", "e( w(b) )"]
    assert [turn.messages[0].content for turn in [*first.turns, *second.turns]] == ["s0", "s0", "s1", "s1"]
    assert [turn.unit for turn in second.turns] == ["row a", "row b"]


def test_the_first_role_draws_from_the_rows_seed_and_a_later_one_from_its_own(
    chain: tuple[ChainRows, Scripted, Scripted],
) -> None:
    rows, first, second = chain
    rows.generate(requests("a"))
    assert first.turns[0].seed == 7
    assert second.turns[0].seed not in (7, 0)


def test_a_row_that_one_role_refuses_goes_no_further_and_its_neighbours_do(
    chain: tuple[ChainRows, Scripted, Scripted],
) -> None:
    rows, first, second = chain
    first.fails = lambda text: TurnRefused("too long") if text == "bad" else None
    good, bad = rows.generate(requests("good", "bad"))
    assert (good.text, bad.finish_reason, bad.error) == ("e( w(good) )", "error", "too long")
    assert "row bad" not in [turn.unit for turn in second.turns]


@pytest.mark.parametrize("error", [EngineFailed("broke"), TurnRefused("no"), ValueError("odd")])
def test_a_row_is_to_blame_only_if_another_prompt_is_answered(error: Exception) -> None:
    with closing(rows_of(Scripted("w", lambda text: error if text == "bad" else None))) as rows:
        good, bad = rows.generate(requests("good", "bad"))
    assert (good.text, bad.finish_reason) == ("w(good)", "error")
    with closing(rows_of(Scripted("w", lambda text: error))) as rows, pytest.raises(EngineUnavailable):
        rows.generate(requests("good", "bad"))


@pytest.mark.parametrize("error", [EngineBusy("full"), EngineFailed("nobody is there", may_be_the_turn=False)])
def test_an_engine_that_is_away_is_no_rows_fault(error: Exception) -> None:
    engine = Scripted("w", lambda text: error if text == "bad" else None)
    with closing(rows_of(engine)) as rows, pytest.raises(EngineUnavailable, match=str(error)):
        rows.generate(requests("good", "bad"))
    assert "control" not in [turn.unit for turn in engine.turns]


def test_what_is_no_engines_word_on_a_turn_ends_the_batch_as_it_is() -> None:
    engine = Scripted("w", lambda text: InvalidInput("no such model"))
    with closing(rows_of(engine)) as rows, pytest.raises(InvalidInput, match="no such model"):
        rows.generate(requests("a", "b"))


def test_every_engine_is_closed_at_the_end() -> None:
    first, second = Scripted(), Scripted()
    rows_of(first, second).close()
    assert (first.num_closed, second.num_closed) == (1, 1)


def test_an_engine_that_fails_to_close_leaves_no_other_open() -> None:
    class Stuck(Scripted):
        async def close(self) -> None:
            raise SystemExit

    first, last = Scripted(), Scripted()
    with pytest.raises(EngineFailed, match="Engine 'scripted' raised SystemExit"):
        rows_of(first, Stuck(), last).close()
    assert (first.num_closed, last.num_closed) == (1, 1)


def test_rows_are_deterministic_if_every_role_is() -> None:
    second = Scripted()
    second.deterministic = False
    with closing(rows_of(Scripted(), second)) as rows:
        assert not rows.deterministic
