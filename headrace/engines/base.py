"""What an engine is: a loaded model that answers turns, whole, piece by piece, or a batch of them together.

Engines know nothing of roles, sessions, campaigns or HTTP clients. Everything that can change an answer is the version
set's (model, prompt template, decoding, engine) or stands in the `Turn`. Bulk and live ask the same engines.
"""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass

from headrace.engines.openai.meaning import FinishReason
from headrace.errors import HeadraceError, Transient, reason_of


@dataclass(frozen=True, kw_only=True, slots=True)
class Message:
    """One chat message. `role`: system, user or assistant."""

    role: str
    content: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Turn:
    """What one role is asked. `messages` are complete: the version set's prompt template is already applied.

    `unit`: what asks, for logs: a request's name or a row's id. `seed`: in [0, 2^63).
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
    """Some text of an answer; the last piece has the finish reason and the counts. `replica`: which one made it.

    Counts are None where nobody knows them: the server said nothing, or nothing that is a count.
    """

    text: str
    finish_reason: FinishReason | None = None
    num_prompt_tokens: int | None = None
    num_output_tokens: int | None = None
    replica: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """A whole answer. `replica`: which one made it, such as a server's URL. Counts as a piece's.

    `note`: what was wrong with what came beside the text, such as counts that are none.
    """

    text: str
    finish_reason: FinishReason
    num_prompt_tokens: int | None = None
    num_output_tokens: int | None = None
    replica: str = ""
    note: str = ""


class TurnRefused(HeadraceError):
    """The engine refuses this turn, and would again. `status` is the HTTP status to pass on (400, 413, 422).

    `for_clients`: what whoever asked may read; empty: the message is for the log alone, it may hold a server's words.
    """

    def __init__(self, message: str, *, status: int = 400, for_clients: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.for_clients = for_clients


class EngineBusy(Transient):
    """The engine has no room now. `retry_after_seconds` says when to come back."""

    def __init__(self, message: str, *, retry_after_seconds: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class EngineFailed(Transient):
    """The engine failed or did not answer in time. `timed_out`: which of the two.

    `may_be_the_turn`: it was asked and failed at it, so another turn may fare better; False: nobody was there to ask.
    """

    def __init__(self, message: str, *, timed_out: bool = False, may_be_the_turn: bool = True) -> None:
        super().__init__(message)
        self.timed_out = timed_out
        self.may_be_the_turn = may_be_the_turn


# How a turn of a batch ended without an answer.
NoAnswer = TurnRefused | EngineBusy | EngineFailed


class Engine(ABC):
    """A loaded model. An engine of another package overrides `answer`, and what it can do better than is done here.

    `answer`, `stream` and `answer_together` end their work at the engine when the caller is cancelled or the iterator
    is closed. All of them are called from one event loop.
    """

    # As in a version set.
    name: str
    # What it runs on here, in the words of a version set's `engine.build`.
    build: str = ""
    # The same turns together give the same bytes on the same kind of machine.
    deterministic: bool = False
    # Turns of a batch that are asked at once; more would only wait in a server's queue, where they time out.
    num_at_once: int = 32

    @abstractmethod
    async def answer(self, turn: Turn) -> Answer:
        """Raises: TurnRefused, EngineBusy, EngineFailed."""

    async def stream(self, turn: Turn) -> AsyncGenerator[Piece, None]:
        """Pieces as they are made. Nothing is retried once a piece was given out.

        Raises: as `answer`, before the first piece; afterwards EngineFailed alone.
        """
        answer = await self.answer(turn)
        yield Piece(
            text=answer.text,
            finish_reason=answer.finish_reason,
            num_prompt_tokens=answer.num_prompt_tokens,
            num_output_tokens=answer.num_output_tokens,
            replica=answer.replica,
        )

    async def answer_together(self, turns: Sequence[Turn]) -> "list[Answer | NoAnswer]":
        """A batch: for each turn, in order, its answer or why there is none.

        Raises: HeadraceError: of another kind, such as InvalidInput: no turn's fault.
        """
        room = asyncio.Semaphore(self.num_at_once)

        async def settled(turn: Turn) -> Answer | NoAnswer:
            async with room:
                try:
                    return await self.answer(turn)
                except Exception as error:  # noqa: BLE001 (whatever an engine raises is one turn's)
                    return no_answer(error)

        tasks = [asyncio.ensure_future(settled(turn)) for turn in turns]
        try:
            return list(await asyncio.gather(*tasks))
        finally:
            # Of one that raised, the others' work ends too.
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def close(self) -> None:  # noqa: B027 (most engines hold nothing)
        """Ends turns under way as failed, and frees what the engine holds. Again: nothing happens."""


def no_answer(error: Exception) -> NoAnswer:
    """What a turn's error means for the turn. What is none of the three is a fault of the engine or of a library.

    Raises: HeadraceError: `error` itself, if it is of another kind of ours: no turn's fault.
    """
    if isinstance(error, HeadraceError):
        if not isinstance(error, NoAnswer):
            raise error
        # It is kept, not raised: its traceback would hold all that was on the way.
        return error.with_traceback(None)
    return EngineFailed(reason_of(error))
