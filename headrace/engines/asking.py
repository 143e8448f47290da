"""Asks an engine and checks what it answers: the one door through which live, bulk, judges and trials reach an engine.

An engine may be another package's, so an answer is believed only as far as it was checked here: later a wrong one would
fail in a table, a metric or a client's connection, each in its own way. That costs a piece about a microsecond.
"""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from typing import NoReturn

from headrace.engines.base import (
    Answer,
    Engine,
    EngineFailed,
    NoAnswer,
    Piece,
    Turn,
    checked,
    no_answer,
    shown,
    wrong_answer,
)
from headrace.engines.openai.meaning import characters_max
from headrace.errors import HeadraceError


async def answer_of(engine: Engine, turn: Turn) -> Answer:
    """Raises:
    TurnRefused, EngineBusy, EngineFailed: as it says; EngineFailed also if it answered what is no answer, raised
    anything else, or tried to end the caller.
    HeadraceError: of another kind, as `Engine.answer` does.
    """
    try:
        answer = await engine.answer(turn)
    except BaseException as error:  # noqa: BLE001 (no engine ends its caller)
        _raise(error, engine)
    return _of_turn(checked(answer, Answer, engine.name), turn, engine)


async def pieces_of(engine: Engine, turn: Turn) -> AsyncGenerator[Piece, None]:
    """Ends with the first piece that has a finish reason; what an engine makes after that is not read.

    Raises: as `answer_of`.
    """
    pieces: object = None
    try:
        pieces = engine.stream(turn)
    except BaseException as error:  # noqa: BLE001 (no engine ends its caller)
        _raise(error, engine)
    if not isinstance(pieces, AsyncGenerator):
        raise wrong_answer(engine.name, f"{shown(pieces)} to stream, which must be an asynchronous generator of pieces")
    characters_left = characters_max(turn.max_tokens)
    try:
        while True:
            try:
                piece = await anext(pieces)
            except StopAsyncIteration:
                return
            except BaseException as error:  # noqa: BLE001 (no engine ends its caller)
                _raise(error, engine)
            checked(piece, Piece, engine.name)
            characters_left -= len(piece.text)
            if characters_left < 0:
                raise _too_long(engine, turn)
            yield piece
            if piece.finish_reason is not None:
                return
    finally:
        # What it raises while it ends is nobody's any more: the last piece was given, or the caller has left.
        try:
            await pieces.aclose()
        except BaseException as error:
            task = asyncio.current_task()
            if isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling():
                raise  # the caller's own end


async def answers_of(engine: Engine, turns: Sequence[Turn]) -> list[Answer | NoAnswer]:
    """A batch's answers, one for each turn. If the engine fails as a whole, each turn has that for its outcome.

    Raises: HeadraceError: of another kind, as `Engine.answer_together` does.
    """
    try:
        # A tuple: an engine that sorts or empties what it was given would change whose answer is whose.
        answers: object = await engine.answer_together(tuple(turns))
        if isinstance(answers, list | tuple):
            answers = list(answers)
    except BaseException as error:  # noqa: BLE001 (no engine ends its caller)
        return [no_answer(error, engine.name)] * len(turns)
    if not isinstance(answers, list):
        fault = f"{shown(answers)} to a batch, which must be a list of answers"
    elif len(answers) != len(turns):
        fault = f"{len(answers)} answers to a batch, which must be {len(turns)}, one for each turn"
    else:
        return [_outcome(engine, turn, answer) for turn, answer in zip(turns, answers, strict=True)]
    return [wrong_answer(engine.name, fault)] * len(turns)


async def close(engine: Engine) -> None:
    """Raises: EngineFailed: it tried to end the caller. Else what the engine raises."""
    try:
        await engine.close()
    except Exception:
        raise
    except BaseException as error:
        raise no_answer(error, engine.name) from error


def _outcome(engine: Engine, turn: Turn, answer: object) -> Answer | NoAnswer:
    try:
        if isinstance(answer, BaseException):
            return no_answer(answer, engine.name)
        return _of_turn(checked(answer, Answer, engine.name), turn, engine)
    except EngineFailed as fault:
        return fault.with_traceback(None)


def _of_turn(answer: Answer, turn: Turn, engine: Engine) -> Answer:
    """Raises: EngineFailed: so many tokens cannot be so long, and somebody would have to hold it."""
    if len(answer.text) > characters_max(turn.max_tokens):
        raise _too_long(engine, turn)
    return answer


def _too_long(engine: Engine, turn: Turn) -> EngineFailed:
    limit = characters_max(turn.max_tokens)
    return wrong_answer(engine.name, f"more than {limit} characters, which {turn.max_tokens} tokens cannot be")


def _raise(error: BaseException, engine: Engine) -> NoReturn:
    """Raises: what a live caller gets for an error: one of ours as it is; of any other its class, since its text may be
    a prompt, with the error as the cause.
    """
    if isinstance(error, HeadraceError):
        if (outcome := no_answer(error, engine.name)) is error:
            raise error
        raise outcome from None
    if isinstance(error, Exception):
        raise EngineFailed(f"Engine {engine.name!r} raised {type(error).__name__}.") from error
    raise no_answer(error, engine.name) from error
