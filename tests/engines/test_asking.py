"""What an engine may answer: the same check wherever it is asked, and the same word for an engine that breaks it."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from headrace.clock import SystemClock
from headrace.engines.base import Answer, Engine, EngineBusy, EngineFailed, Piece, Turn, TurnRefused
from headrace.engines.chain import Conversation, LoadedRole, RoleChain, Step, try_role
from headrace.engines.rows import ChainRows, GenerationRequest
from headrace.errors import EngineUnavailable, InvalidInput
from headrace.rollout.preparation import preparations, prepare_here
from headrace.store.local import LocalStore
from tests.generation.builders import make_member

GOOD = Answer(text="hello", finish_reason="stop", num_prompt_tokens=1, num_output_tokens=1)
BROKEN: dict[str, tuple[Any, str]] = {
    "nothing": (None, "answered None, which must be of type Answer"),
    "a text alone": ("secret", "answered something of type str, which must be of type Answer"),
    "no text": (replace(GOOD, text=None), "answered text None, which must be a string"),
    "bytes": (replace(GOOD, text=b"secret"), "answered text something of type bytes, which must be a string"),
    "half a surrogate": (replace(GOOD, text="a\ud83d"), "text that cannot be written as UTF-8: surrogates not allowed"),
    "a negative count": (replace(GOOD, num_output_tokens=-5), "answered num_output_tokens -5, which must be a whole"),
    "a count of halves": (
        replace(GOOD, num_prompt_tokens=1.5),
        "answered num_prompt_tokens 1.5, which must be a whole",
    ),
    "a huge count": (replace(GOOD, num_prompt_tokens=10**5000), "num_prompt_tokens something of type int, which must"),
    "no end": (replace(GOOD, finish_reason=None), "answered finish_reason None, which must be one of stop, length"),
    "an odd end": (
        replace(GOOD, finish_reason="eos"),
        "answered finish_reason 'eos', which must be one of stop, length",
    ),
    "no replica": (replace(GOOD, replica=None), "answered replica None, which must be a string"),
    "a number as a note": (replace(GOOD, note=3), "answered note 3, which must be a string"),
}


class Odd(Engine):
    """Answers with `answer` and batches with `batch`; an exception is raised."""

    name = "odd"

    def __init__(self, answer: Any = GOOD, batch: Callable[[Sequence[Turn]], Any] | None = None) -> None:
        self._answer, self._batch = answer, batch

    async def answer(self, turn: Turn) -> Answer:
        if isinstance(self._answer, BaseException):
            raise self._answer
        return self._answer

    async def answer_together(self, turns: Sequence[Turn]) -> Any:
        return self._batch(turns) if self._batch else await super().answer_together(turns)


class OddPieces(Odd):
    async def stream(self, turn: Turn) -> AsyncGenerator[Piece, None]:
        yield Piece(text="good")
        if isinstance(self._answer, BaseException):
            raise self._answer
        yield self._answer


def chain_of(engine: Engine) -> RoleChain:
    return RoleChain(id="set", roles=(LoadedRole(member=make_member(), engine=engine),))


async def whole(engine: Engine, report: Callable[[Step], None] = lambda step: None) -> Answer:
    return await chain_of(engine).answer(Conversation.of("a"), unit="u", seed=1, report=report)


async def streamed(engine: Engine, report: Callable[[Step], None] = lambda step: None) -> str:
    pieces = chain_of(engine).stream(Conversation.of("a"), unit="u", seed=1, report=report)
    return "".join([piece.text async for piece in pieces])


async def tried(engine: Engine) -> None:
    await try_role(LoadedRole(member=make_member(), engine=engine))


@pytest.fixture(params=[whole, streamed, tried])
def ask(request: pytest.FixtureRequest) -> Callable[[Engine], Coroutine[Any, Any, Any]]:
    return request.param


def rows(engine: Engine, *prompts: str) -> list[tuple[str, str | None]]:
    requests = [GenerationRequest(row_id=prompt, prompt=prompt, seed=7) for prompt in prompts]
    with closing(ChainRows.of(make_member(), engine)) as made:
        return [(row.text, row.error) for row in made.generate(requests)]


@pytest.mark.parametrize("kind", BROKEN)
def test_what_is_no_answer_is_the_engines_failure_wherever_it_is_asked(ask: Any, kind: str) -> None:
    answer, why = BROKEN[kind]
    with pytest.raises(EngineFailed) as caught:
        asyncio.run(ask(Odd(answer)))
    assert str(caught.value).startswith("Engine 'odd' answered ")
    assert why in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("kind", BROKEN)
def test_a_batch_of_what_is_no_answer_fills_no_day_with_errors(kind: str) -> None:
    answer, why = BROKEN[kind]
    for engine in Odd(answer), Odd(batch=lambda turns: [answer] * len(turns)):
        with pytest.raises(EngineUnavailable, match="Engine 'odd' answered") as caught:
            rows(engine, "a", "b")
        assert why in str(caught.value)


@pytest.mark.parametrize("kind", ["nothing", "half a surrogate", "a negative count"])
def test_a_row_with_no_answer_is_that_rows_error_if_others_are_answered(kind: str) -> None:
    answer, why = BROKEN[kind]
    bad = Odd(batch=lambda turns: [answer if turn.messages[-1].content == "bad" else GOOD for turn in turns])
    good, (text, error) = rows(bad, "good", "bad")
    assert (good, text) == (("hello", None), "")
    assert error
    assert why in error


def test_a_piece_that_is_none_ends_the_stream_and_its_step_is_reported() -> None:
    steps: list[Step] = []
    for piece in [None, Piece(text="", finish_reason="stop", num_output_tokens=-5), Piece(text="\udc80")]:
        with pytest.raises(EngineFailed, match="Engine 'odd' answered"):
            asyncio.run(streamed(OddPieces(piece), steps.append))
    assert [(step.text, step.error, step.num_output_tokens) for step in steps] == [("good", "EngineFailed", 0)] * 3


def test_a_stream_that_gives_no_pieces_is_told() -> None:
    engine = Odd()
    engine.stream = lambda turn: iter([])  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(EngineFailed, match="must be an asynchronous generator of pieces"):
        asyncio.run(streamed(engine))


BATCHES: dict[str, tuple[Callable[[Sequence[Turn]], Any], str]] = {
    "too short": (lambda turns: [GOOD] * (len(turns) - 1), "answers to a batch, which must be 2, one for each turn"),
    "None": (lambda turns: None, "answered None to a batch, which must be a list of answers"),
    "a text": (lambda turns: "ab", "answered something of type str to a batch, which must be a list"),
    "of refusals of another kind": (lambda turns: [ValueError("why")] * len(turns), "ValueError: why"),
}


@pytest.mark.parametrize("kind", BATCHES)
def test_a_batch_that_is_none_is_the_engines_failure_not_its_rows(kind: str) -> None:
    batch, why = BATCHES[kind]
    with pytest.raises(EngineUnavailable, match=why):
        rows(Odd(batch=batch), "a", "b")


ENDINGS = [asyncio.CancelledError(), GeneratorExit(), SystemExit(3), KeyboardInterrupt()]


@pytest.mark.parametrize("ending", ENDINGS, ids=lambda ending: type(ending).__name__)
def test_an_engine_that_ends_its_caller_has_failed(ask: Any, ending: BaseException) -> None:
    def raised(turns: Sequence[Turn]) -> Any:
        raise ending

    why = f"Engine 'odd' raised {type(ending).__name__}"
    with pytest.raises(EngineFailed, match=why):
        asyncio.run(ask(Odd(ending)))
    with pytest.raises(EngineFailed, match=why):
        asyncio.run(streamed(OddPieces(ending)))
    for engine in Odd(ending), Odd(batch=raised):
        with pytest.raises(EngineUnavailable, match=why):
            rows(engine, "a", "b")


@pytest.mark.parametrize("ending", [SystemExit(3), KeyboardInterrupt()], ids=["SystemExit", "KeyboardInterrupt"])
def test_a_task_of_an_engine_that_ends_the_process_leaves_no_caller_waiting(ending: BaseException) -> None:
    class InATask(Odd):
        async def answer_together(self, turns: Sequence[Turn]) -> Any:
            return await asyncio.create_task(Odd(ending).answer(turns[0]))

        async def close(self) -> None:
            raise ending

    made = ChainRows.of(make_member(), InATask())
    with pytest.raises(EngineUnavailable, match=type(ending).__name__):
        made.generate([GenerationRequest(row_id="a", prompt="a", seed=7)])
    with pytest.raises(EngineFailed, match=f"Engine 'odd' raised {type(ending).__name__}"):
        made.close()


def test_an_engine_that_cancels_the_task_that_asks_it_has_failed() -> None:
    def cancelled() -> None:
        task = asyncio.current_task()
        assert task
        task.cancel()

    class Cancelling(Odd):
        async def answer_together(self, turns: Sequence[Turn]) -> Any:
            cancelled()
            await asyncio.sleep(0)

    with pytest.raises(EngineFailed, match="An engine cancelled the task that asked it"):
        rows(Cancelling(), "a", "b")


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda: TurnRefused("no", status=200), r"must have a status of \[400, 413, 422\], got 200"),
        (lambda: EngineBusy("full", retry_after_seconds=float("nan")), "a number from 0 to 86400, got nan"),
        (lambda: EngineBusy("full", retry_after_seconds=1e308), "a number from 0 to 86400, got 1e\\+308"),
        (lambda: TurnRefused("no", for_clients=b"no"), "for_clients of TurnRefused must be a string, got something"),  # pyright: ignore[reportArgumentType]
        (lambda: TurnRefused("no", status=400.0), r"must have a status of \[400, 413, 422\], got 400\.0"),  # pyright: ignore[reportArgumentType]
        (lambda: EngineBusy("full", retry_after_seconds=-1), "a number from 0 to 86400, got -1"),
        (lambda: EngineBusy("full", retry_after_seconds=None), "a number from 0 to 86400, got None"),  # pyright: ignore[reportArgumentType]
    ],
)
def test_an_error_says_what_a_client_can_be_told(make: Callable[[], Exception], why: str) -> None:
    with pytest.raises(EngineFailed, match=why):
        make()


def test_a_batch_that_fails_as_a_whole_on_one_prompt_is_not_an_outage() -> None:
    def refused(turns: Sequence[Turn]) -> Any:
        if any(turn.messages[-1].content == "bad" for turn in turns):
            raise TurnRefused("too long")
        return [GOOD] * len(turns)

    assert rows(Odd(batch=refused), "bad", "good") == [("", "too long")] * 2
    assert rows(Odd(batch=refused), "good") == [("hello", None)]


def test_what_no_turn_caused_ends_a_batch_as_it_is() -> None:
    with pytest.raises(InvalidInput, match="no such model"):
        rows(Odd(batch=lambda turns: [InvalidInput("no such model")]), "a")


def test_a_cancelled_caller_is_cancelled() -> None:
    class Slow(Odd):
        async def answer(self, turn: Turn) -> Answer:
            await asyncio.sleep(60)
            return GOOD

    async def cancelled(work: Coroutine[Any, Any, Any]) -> None:
        task = asyncio.create_task(work)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    for work in whole(Slow()), streamed(Slow()), chain_of(Slow()).answer_together([("u", Conversation.of("a"), 1)]):
        asyncio.run(cancelled(work))


def test_a_text_that_cannot_be_encoded_is_kept_as_the_reason_of_a_preparation(tmp_path: Path) -> None:
    def fails() -> Any:
        raise ValueError("half a pair: \ud83d")

    store = LocalStore(tmp_path)
    prepare_here(store, "service", 1, fails, node="node", clock=SystemClock(), seconds_max=10.0)
    [record] = preparations(store, "service", 1)
    assert (record.ok, record.error) == (False, "ValueError: half a pair: ?")


class Unspeakable(ValueError):
    def __str__(self) -> str:
        raise self


class Halved(EngineBusy):
    """Another package's, which sets none of the fields."""

    def __init__(self) -> None:  # pyright: ignore[reportMissingSuperCall]
        pass


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (ValueError("a prompt"), "Engine 'odd' raised ValueError"),
        (TimeoutError(), "Engine 'odd' raised TimeoutError"),
        (Unspeakable(), "Engine 'odd' raised Unspeakable"),
        (Halved(), "raised Halved, which cannot be read: AttributeError"),
    ],
)
def test_whatever_an_engine_raises_live_is_its_failure_and_keeps_its_text_to_itself(error: Exception, why: str) -> None:
    for ask in whole(Odd(error)), streamed(OddPieces(error)):
        with pytest.raises(EngineFailed, match=why) as caught:
            asyncio.run(ask)
        assert "a prompt" not in str(caught.value)


@pytest.mark.parametrize("change", [list.clear, list.reverse, lambda turns: turns.sort(key=lambda turn: turn.unit)])
def test_an_engine_that_changes_the_batch_it_was_given_swaps_no_answers(change: Callable[[Any], None]) -> None:
    def answered(turns: Any) -> Any:
        change(turns)
        return [GOOD] * 2

    with pytest.raises(EngineUnavailable, match="AttributeError|TypeError"):
        rows(Odd(batch=answered), "bb", "a")


class OddList(list[Any]):
    def __iter__(self) -> Any:
        return iter([])


@pytest.mark.parametrize("batch", [OddList([GOOD, GOOD]), [object.__new__(Answer)] * 2])
def test_a_batch_that_is_not_what_it_seems_fills_no_day_with_errors(batch: Any) -> None:
    with pytest.raises(EngineUnavailable, match="answered 0 answers|fields cannot be read"):
        rows(Odd(batch=lambda turns: batch), "a", "b")


@pytest.mark.parametrize("ending", [ValueError, SystemExit, KeyboardInterrupt, asyncio.CancelledError])
def test_a_stream_ends_with_its_first_finish_reason_whatever_follows(ending: type[BaseException]) -> None:
    class Longer(Odd):
        async def stream(self, turn: Turn) -> AsyncGenerator[Piece, None]:
            try:
                yield Piece(text="one")
                yield Piece(text="two", finish_reason="stop")
                yield Piece(text="three")
            finally:
                raise ending("in its end")

    assert asyncio.run(streamed(Longer())) == "onetwo"


def test_an_answer_longer_than_its_tokens_can_be_is_the_engines_failure() -> None:
    class Endless(Odd):
        async def stream(self, turn: Turn) -> AsyncGenerator[Piece, None]:
            while True:
                yield Piece(text="x" * 1000)

    with pytest.raises(EngineFailed, match="answered more than .* characters, which .* tokens cannot be"):
        asyncio.run(streamed(Endless()))
    with pytest.raises(EngineFailed, match="answered more than .* characters"):
        asyncio.run(whole(Odd(replace(GOOD, text="x" * 1_000_000))))


def test_a_stream_that_is_refused_before_its_first_piece_keeps_its_text_to_itself() -> None:
    class Refusing(Odd):
        def stream(self, turn: Turn) -> AsyncGenerator[Piece, None]:
            raise ValueError("a prompt")

    with pytest.raises(EngineFailed, match="Engine 'odd' raised ValueError") as caught:
        asyncio.run(streamed(Refusing()))
    assert "a prompt" not in str(caught.value)
