"""Asks an engine and checks what it answers: the one door through which live, bulk, judges and trials reach an engine.

An engine may be another package's, so an answer is believed only as far as it was checked here: later a wrong one would
fail in a table, a metric or a client's connection, each in its own way. That costs a piece about a microsecond.
"""

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

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


async def answer_of(engine: Engine, turn: Turn) -> Answer:
    """Raises: EngineFailed: it answered what is no answer, or tried to end the caller. Else what the engine raises."""
    try:
        answer = await engine.answer(turn)
    except Exception:
        raise
    except BaseException as error:
        raise no_answer(error, engine.name) from error
    return checked(answer, Answer, engine.name)


async def pieces_of(engine: Engine, turn: Turn) -> AsyncGenerator[Piece, None]:
    """Raises: as `answer_of`."""
    pieces: object = engine.stream(turn)
    if not isinstance(pieces, AsyncGenerator):
        raise wrong_answer(engine.name, f"{shown(pieces)} to stream, which must be an asynchronous generator of pieces")
    async with aclosing(pieces):
        while True:
            try:
                piece = await anext(pieces)
            except StopAsyncIteration:
                return
            except Exception:
                raise
            except BaseException as error:
                raise no_answer(error, engine.name) from error
            yield checked(piece, Piece, engine.name)


async def answers_of(engine: Engine, turns: Sequence[Turn]) -> list[Answer | NoAnswer]:
    """A batch's answers, one for each turn. If the engine fails as a whole, each turn has that for its outcome.

    Raises: HeadraceError: of another kind, as `Engine.answer_together` does.
    """
    try:
        answers: object = await engine.answer_together(turns)
    except BaseException as error:  # noqa: BLE001 (no engine ends its caller)
        return [no_answer(error, engine.name)] * len(turns)
    if not isinstance(answers, list | tuple):
        fault = f"{shown(answers)} to a batch, which must be a list of answers"
    elif len(answers) != len(turns):
        fault = f"{len(answers)} answers to a batch, which must be {len(turns)}, one for each turn"
    else:
        return [_outcome(engine, answer) for answer in answers]
    return [wrong_answer(engine.name, fault)] * len(turns)


async def close(engine: Engine) -> None:
    """Raises: EngineFailed: it tried to end the caller. Else what the engine raises."""
    try:
        await engine.close()
    except Exception:
        raise
    except BaseException as error:
        raise no_answer(error, engine.name) from error


def _outcome(engine: Engine, answer: object) -> Answer | NoAnswer:
    try:
        return (
            no_answer(answer, engine.name)
            if isinstance(answer, BaseException)
            else checked(answer, Answer, engine.name)
        )
    except EngineFailed as fault:
        return fault
