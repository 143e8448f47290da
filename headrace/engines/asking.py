"""Asks an engine and checks what it answers: the one door through which live, bulk, judges and trials reach an engine.

An engine may be another package's, so an answer is believed only as far as it was checked here: later a wrong one would
fail in a table, a metric or a client's connection, each in its own way. That costs a piece about a microsecond.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import NoReturn, TypeVar

from headrace.engines.base import (
    Answer,
    Engine,
    EngineFailed,
    LoadedModel,
    NoAnswer,
    Piece,
    Turn,
    checked,
    no_answer,
    settled_together,
    shown,
    wrong_answer,
)
from headrace.engines.hearing import HearingEngine, HearingTurn
from headrace.engines.media import MediaAnswer, MediaEngine, MediaTurn
from headrace.engines.media_bytes import MediaFacts, examined
from headrace.engines.openai.meaning import characters_max
from headrace.errors import HeadraceError
from headrace.version_sets.sets import Member

_Q = TypeVar("_Q")
_O = TypeVar("_O")
# Of what stands beside a picture or a recording. It goes into the record of every row, which is read as a whole.
_BESIDE_CHARACTERS_MAX = 65_536
# The fastest speakers say some thirty; a model that repeats itself writes hundreds.
_HEARD_CHARACTERS_A_SECOND_MAX = 100


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


async def transcript_of(engine: HearingEngine, turn: HearingTurn) -> Answer:
    """What was said. Raises: as `answer_of`."""
    try:
        answer = await engine.hear(turn)
    except BaseException as error:  # noqa: BLE001 (no engine ends its caller)
        _raise(error, engine)
    if len(checked(answer, Answer, engine.name).text) > (most := _heard_characters_max(turn)):
        raise wrong_answer(engine.name, f"more than {most} characters, which nobody says in {turn.seconds:.1f} s")
    return answer


def _heard_characters_max(turn: HearingTurn) -> int:
    return 200 + int(turn.seconds * _HEARD_CHARACTERS_A_SECOND_MAX)


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
    return await _outcomes(engine, engine.answer_together, turns, lambda turn, given: _answer(engine, turn, given))


async def media_of(
    engine: MediaEngine, member: Member, turns: Sequence[MediaTurn]
) -> list[tuple[MediaAnswer, MediaFacts] | NoAnswer]:
    """What an engine made of a batch, one for each turn, with what the bytes are. As `answers_of` for what fails.

    Raises: HeadraceError: of another kind, as `MediaEngine.make_together` does; InvalidInput: Pillow is not installed.
    """
    return await _outcomes(engine, engine.make_together, turns, lambda _, given: _medium(engine, member, given))


async def made_of(
    engine: MediaEngine, turns: Sequence[MediaTurn], *, is_live: bool = False
) -> list[MediaAnswer | NoAnswer]:
    """As `media_of`, without a look at the bytes: for who hands them on to one who looks.

    Args: is_live: each turn is asked as a live caller asks, which an engine may prefer to a batch.
    """
    ask = partial(settled_together, engine, engine.make) if is_live else engine.make_together
    return await _outcomes(engine, ask, turns, lambda _, given: _media_answer(engine, given))


async def medium_of(engine: MediaEngine, member: Member, turn: MediaTurn) -> tuple[MediaAnswer, MediaFacts]:
    """One picture or recording for a live caller. Its bytes are examined in a thread: a large picture takes so long to
    decode that other callers would notice.

    Raises: as `answer_of`; EngineFailed also if the bytes are not what the member makes.
    """
    try:
        answer = await engine.make(turn)
    except BaseException as error:  # noqa: BLE001 (no engine ends its caller)
        _raise(error, engine)
    made = _media_answer(engine, answer)
    return made, await asyncio.to_thread(examined, made.content, member)


async def close(engine: LoadedModel) -> None:
    """Raises: EngineFailed: it tried to end the caller. Else what the engine raises."""
    try:
        await engine.close()
    except Exception:
        raise
    except BaseException as error:
        raise no_answer(error, engine.name) from error


async def _outcomes(
    engine: LoadedModel,
    ask: Callable[[Sequence[_Q]], Awaitable[object]],
    turns: Sequence[_Q],
    read: Callable[[_Q, object], _O],
) -> list[_O | NoAnswer]:
    try:
        # A tuple: an engine that sorts or empties what it was given would change whose answer is whose.
        answers = await ask(tuple(turns))
        if isinstance(answers, list | tuple):
            answers = list(answers)
    except BaseException as error:  # noqa: BLE001 (no engine ends its caller)
        return [no_answer(error, engine.name)] * len(turns)
    if not isinstance(answers, list):
        fault = f"{shown(answers)} to a batch, which must be a list of answers"
    elif len(answers) != len(turns):
        fault = f"{len(answers)} answers to a batch, which must be {len(turns)}, one for each turn"
    else:
        return [_outcome(engine, turn, answer, read) for turn, answer in zip(turns, answers, strict=True)]
    return [wrong_answer(engine.name, fault)] * len(turns)


def _outcome(engine: LoadedModel, turn: _Q, answer: object, read: Callable[[_Q, object], _O]) -> _O | NoAnswer:
    try:
        if isinstance(answer, BaseException):
            return no_answer(answer, engine.name)
        return read(turn, answer)
    except EngineFailed as fault:
        return fault.with_traceback(None)


def _answer(engine: Engine, turn: Turn, answer: object) -> Answer:
    return _of_turn(checked(answer, Answer, engine.name), turn, engine)


def _medium(engine: MediaEngine, member: Member, answer: object) -> tuple[MediaAnswer, MediaFacts]:
    """Raises: EngineFailed: it is not what the contract says, or its bytes are not what the member makes."""
    made = _media_answer(engine, answer)
    return made, examined(made.content, member)


def _media_answer(engine: MediaEngine, answer: object) -> MediaAnswer:
    """Raises: EngineFailed: it is not what the contract says."""
    # Exactly: a subclass may make its fields in its own way.
    sound = _sound(answer) if type(answer) is MediaAnswer else None
    if sound is None:
        raise wrong_answer(
            engine.name,
            f"{shown(answer)}, which must be a MediaAnswer of bytes, and of texts with at most "
            f"{_BESIDE_CHARACTERS_MAX:,} characters together",
        )
    return sound


def _sound(answer: MediaAnswer) -> MediaAnswer | None:
    """The answer with a copy of its attributes, so that what was checked is what is kept; None: it is not sound."""
    try:
        if type(answer.content) is not bytes or not isinstance(answer.attributes, Mapping):
            return None
        attributes = dict(answer.attributes)
        texts = [answer.replica, answer.note, *attributes, *attributes.values()]
        if not all(map(_is_text, texts)) or sum(map(len, texts)) > _BESIDE_CHARACTERS_MAX:
            return None
        return replace(answer, attributes=attributes)
    except Exception:  # noqa: BLE001 (a field that was never set, a mapping that raises)
        return None


def _is_text(value: object) -> bool:
    if type(value) is not str:
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _of_turn(answer: Answer, turn: Turn, engine: Engine) -> Answer:
    """Raises: EngineFailed: so many tokens cannot be so long, and somebody would have to hold it."""
    if len(answer.text) > characters_max(turn.max_tokens):
        raise _too_long(engine, turn)
    return answer


def _too_long(engine: Engine, turn: Turn) -> EngineFailed:
    limit = characters_max(turn.max_tokens)
    return wrong_answer(engine.name, f"more than {limit} characters, which {turn.max_tokens} tokens cannot be")


def _raise(error: BaseException, engine: LoadedModel) -> NoReturn:
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
