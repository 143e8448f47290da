"""The contract of an engine: a loaded model that answers turns, whole, in pieces, or a batch together.

Engines know nothing of roles, sessions, campaigns or HTTP clients. Everything that can change an answer is in the
version set (model, prompt template, decoding, engine) or in the `Turn`. Bulk and live use the same engines.
"""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from headrace.engines.openai.meaning import COUNT_MAX, FINISH_REASONS, REFUSED, FinishReason
from headrace.errors import HeadraceError, Transient, reason_of, text_of

_DAY_SECONDS = 86_400


@dataclass(frozen=True, kw_only=True, slots=True)
class Message:
    """One chat message. `role`: system, user or assistant."""

    role: str
    content: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Turn:
    """A question to one role. `messages` are complete: the version set's prompt template is already applied.

    `unit`: the asker's name in logs: a request or a row id. `seed`: in [0, 2^63).
    """

    unit: str
    messages: tuple[Message, ...]
    temperature: float
    top_p: float
    max_tokens: int
    seed: int
    stop: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Piece:
    """A piece of an answer; the last one has the finish reason and the counts. `replica`: the server that made it.

    Texts can be written as UTF-8. Counts are from 0 to `COUNT_MAX`, or None if unknown: the server sent none, or no
    valid ones.
    """

    text: str
    finish_reason: FinishReason | None = None
    num_prompt_tokens: int | None = None
    num_output_tokens: int | None = None
    replica: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """A whole answer. `replica`: the server that made it, such as its URL. Texts and counts as in a piece.

    `note`: what was wrong beside the text, such as invalid counts.
    """

    text: str
    finish_reason: FinishReason
    num_prompt_tokens: int | None = None
    num_output_tokens: int | None = None
    replica: str = ""
    note: str = ""


class TurnRefused(HeadraceError):
    """The engine refuses this turn, and would refuse it again. `status` is the HTTP status to pass on (400, 413, 422).

    `for_clients`: a text that clients may read; if empty, the message is for the log only, since it may quote a server.
    `by_policy`: what was asked for is refused, and not how it was asked: an outcome of its own, and no error.

    Raises: EngineFailed: any other status would tell a client what is not so.
    """

    def __init__(self, message: str, *, status: int = 400, for_clients: str = "", by_policy: bool = False) -> None:
        super().__init__(message)
        if type(status) is not int or status not in REFUSED:
            raise EngineFailed(f"TurnRefused must have a status of {sorted(REFUSED)}, got {shown(status)}.")
        if type(for_clients) is not str:
            raise EngineFailed(f"for_clients of TurnRefused must be a string, got {shown(for_clients)}.")
        self.status = status
        self.for_clients = for_clients
        self.by_policy = bool(by_policy)


class EngineBusy(Transient):
    """The engine has no room now. `retry_after_seconds` says when to try again.

    Raises: EngineFailed: `retry_after_seconds` is not a number from 0 to a day.
    """

    def __init__(self, message: str, *, retry_after_seconds: float = 1.0) -> None:
        super().__init__(message)
        if not isinstance(retry_after_seconds, int | float) or not 0 <= retry_after_seconds <= _DAY_SECONDS:
            raise EngineFailed(
                f"retry_after_seconds must be a number from 0 to {_DAY_SECONDS}, got {shown(retry_after_seconds)}."
            )
        self.retry_after_seconds = retry_after_seconds


class EngineFailed(Transient):
    """The engine failed (`timed_out`: did not answer in time).

    `may_be_the_turn`: the engine failed while it worked on this turn, so another may succeed; False: no engine took it.
    """

    def __init__(self, message: str, *, timed_out: bool = False, may_be_the_turn: bool = True) -> None:
        super().__init__(message)
        self.timed_out = timed_out
        self.may_be_the_turn = may_be_the_turn


# Why a turn of a batch has no answer.
NoAnswer = TurnRefused | EngineBusy | EngineFailed

_Q = TypeVar("_Q")
_O = TypeVar("_O")


class LoadedModel(ABC):
    """What every opened engine has, whatever it makes. One event loop calls all of its methods."""

    # Its name in a version set.
    name: str
    # Its library versions and kind of CPU here, in the form of `EngineSpec.whole_build`.
    build: str = ""
    # Whether the CPU's kind can change an output: not if all sums are made on a GPU.
    computes_on_cpu: bool = True
    # Whether a turn of a batch gets the same bytes whatever the batch, on the same kind of machine.
    deterministic: bool = False
    # Whether the model that it opened lets a row's bytes depend on its neighbours after all, whatever its kind says.
    mixes_rows: bool = False
    # The name under which an engine host holds the model; empty: it is in this process.
    resident: str = ""
    # How many turns of a batch are asked at once; more would wait in a server's queue and time out there.
    num_at_once: int = 32

    # Whether a host may let its memory go for a while: by `sleep`, or it is closed and, in the same process, opened
    # again.
    can_sleep: bool = True

    async def close(self) -> None:  # noqa: B027 (most engines hold nothing)
        """Fails the turns under way, and frees what the engine holds. A second call does nothing."""

    async def sleep(self) -> bool:
        """Lets go of memory until `wake`, if it can by itself; False: it did nothing. No turn is under way."""
        return False

    async def wake(self) -> None:  # noqa: B027 (as `close`)
        """Ends a sleep. Raises: EngineFailed: it cannot."""


class Engine(LoadedModel):
    """A loaded model that writes. Another package's engine overrides `answer`, and each method that it can improve on.

    If the caller is cancelled or the iterator closed, `answer`, `stream` and `answer_together` end their work at the
    engine.
    """

    @abstractmethod
    async def answer(self, turn: Turn) -> Answer:
        """Raises: TurnRefused, EngineBusy, EngineFailed."""

    async def stream(self, turn: Turn) -> AsyncGenerator[Piece, None]:
        """Yields pieces as they are made. Nothing is retried after the first piece was yielded.

        Raises: as `answer`, before the first piece; afterwards only EngineFailed.
        """
        answer = checked(await self.answer(turn), Answer, self.name)
        yield Piece(
            text=answer.text,
            finish_reason=answer.finish_reason,
            num_prompt_tokens=answer.num_prompt_tokens,
            num_output_tokens=answer.num_output_tokens,
            replica=answer.replica,
        )

    async def answer_together(self, turns: Sequence[Turn]) -> "list[Answer | NoAnswer]":
        """Answers a batch: for each turn, in order, its answer or why there is none.

        Raises: HeadraceError: of another kind, such as InvalidInput: then no turn caused it.
        """

        async def answered(turn: Turn) -> Answer:
            return checked(await self.answer(turn), Answer, self.name)

        return await settled_together(self, answered, turns)


async def settled_together(
    engine: LoadedModel, ask: Callable[[_Q], Awaitable[_O]], turns: Sequence[_Q]
) -> "list[_O | NoAnswer]":
    """Asks each turn alone, `engine.num_at_once` of them at once: in order what `ask` gives, or why there is none.

    Raises: as `Engine.answer_together`.
    """
    room = asyncio.Semaphore(engine.num_at_once)

    async def settled(turn: _Q) -> _O | NoAnswer:
        async with room:
            try:
                return await ask(turn)
            except BaseException as error:  # noqa: BLE001 (whatever an engine raises is one turn's)
                return no_answer(error, engine.name)

    tasks = [asyncio.ensure_future(settled(turn)) for turn in turns]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        # If one raised, the others' work ends too.
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


_A = TypeVar("_A", Answer, Piece)


def checked(answer: object, wanted: type[_A], engine: str) -> _A:
    """`answer`, which the engine of that name gave, if it is what the contract says.

    Raises: EngineFailed: it is not. The message quotes no text, since gateways log it.
    """
    try:
        fault = _fault(answer, wanted)
    except Exception as error:  # noqa: BLE001 (a field that was never set, a property that raises)
        fault = f"something of type {type(answer).__name__} whose fields cannot be read ({type(error).__name__})"
    if fault:
        raise wrong_answer(engine, fault)
    return answer  # pyright: ignore[reportReturnType]


def wrong_answer(engine: str, fault: str) -> EngineFailed:
    """Args: fault: what it answered, and what that must be."""
    return EngineFailed(
        f"Engine {engine!r} answered {fault}. Its package must be corrected; headrace.engines.conformance tests it."
    )


def _fault(answer: object, wanted: type[Answer] | type[Piece]) -> str:
    """Empty: there is none."""
    # Exactly: a subclass may make its fields, or its copies, in its own way.
    if type(answer) is not wanted:
        return f"{shown(answer)}, which must be of type {wanted.__name__}"
    for name in ("text", "replica") if wanted is Piece else ("text", "replica", "note"):
        text = getattr(answer, name)
        if type(text) is not str:
            return f"{name} {shown(text)}, which must be a string"
        try:
            text.encode()
        except UnicodeEncodeError as error:
            return f"{name} that cannot be written as UTF-8: {error.reason} at character {error.start}"
    reason = answer.finish_reason
    if reason is None and wanted is Piece:
        pass
    elif not isinstance(reason, str) or reason not in FINISH_REASONS:
        named = f"{reason[:40]!r}" if isinstance(reason, str) else shown(reason)
        return f"finish_reason {named}, which must be one of {', '.join(FINISH_REASONS)}"
    for name in ("num_prompt_tokens", "num_output_tokens"):
        count = getattr(answer, name)
        if count is not None and not (type(count) is int and 0 <= count <= COUNT_MAX):
            return f"{name} {shown(count)}, which must be a whole number from 0 to {COUNT_MAX}, or None"
    return ""


def shown(value: object) -> str:
    """A number or None as itself; of all else only its type, since it may hold a prompt."""
    if value is None or isinstance(value, float) or (isinstance(value, int) and abs(value) < 2**63):
        return repr(value)
    return f"something of type {type(value).__name__}"


def no_answer(error: BaseException, engine: str) -> NoAnswer:
    """The turn's outcome for an error. An error of none of the three classes is a fault of the engine or a library.

    Args: engine: its name.

    Raises:
        HeadraceError: `error` itself, if it is another of our errors: no turn caused it.
        BaseException: `error` itself, if it ends the caller's task and not only the engine's work.
    """
    if isinstance(error, HeadraceError):
        if not isinstance(error, NoAnswer):
            raise error
        # The error is kept, not raised: its traceback would keep all of the call's objects alive.
        return _sound(error).with_traceback(None)
    if isinstance(error, Exception):
        return EngineFailed(reason_of(error))
    if _is_ending():
        raise error
    # Passed on, a CancelledError or SystemExit would end the caller in silence.
    return EngineFailed(f"Engine {engine!r} raised {type(error).__name__}, and nobody had ended its work.")


def _sound(error: NoAnswer) -> NoAnswer:
    """The error, or one of our own class if it is of a package's subclass, which may lack fields or have no text."""
    try:
        match error:
            case TurnRefused() if type(error) is not TurnRefused:
                return TurnRefused(
                    text_of(error), status=error.status, for_clients=error.for_clients, by_policy=error.by_policy
                )
            case EngineBusy() if type(error) is not EngineBusy:
                return EngineBusy(text_of(error), retry_after_seconds=error.retry_after_seconds)
            case EngineFailed() if type(error) is not EngineFailed:
                return EngineFailed(text_of(error), timed_out=error.timed_out, may_be_the_turn=error.may_be_the_turn)
    except Exception as fault:  # noqa: BLE001 (a field that is not there)
        return EngineFailed(f"The engine raised {type(error).__name__}, which cannot be read: {reason_of(fault)}")
    return error


def _is_ending() -> bool:
    """Whether the task that runs this is being cancelled, or is destroyed after its loop's end."""
    try:
        task = asyncio.current_task()
    except RuntimeError:
        return True
    return task is None or task.cancelling() > 0
