"""What a serving engine is: one role of one version set, answering a turn at a time, whole or piece by piece.

Engines know nothing of sessions, rollouts or HTTP clients. Everything that can change an answer is the version set's
(model, prompt template, decoding) or stands in the `Turn`.
"""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Protocol

from headrace.engines.openai.meaning import FinishReason
from headrace.errors import HeadraceError, Transient


@dataclass(frozen=True, kw_only=True, slots=True)
class Message:
    """One chat message. `role`: system, user or assistant."""

    role: str
    content: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Turn:
    """What one role is asked. `messages` are complete: the version set's prompt template is already applied."""

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
    """A whole answer. `replica`: which one made it, such as a server's URL. Counts as a piece's."""

    text: str
    finish_reason: FinishReason
    num_prompt_tokens: int | None
    num_output_tokens: int | None
    replica: str


class ServingEngine(Protocol):
    """A loaded role of a version set.

    `answer` and `stream` end their work at the engine when the caller is cancelled or the iterator is closed.
    """

    @property
    def name(self) -> str: ...

    async def answer(self, turn: Turn) -> Answer:
        """Raises: TurnRefused, EngineBusy, EngineFailed."""
        ...

    def stream(self, turn: Turn) -> AsyncIterator[Piece]:
        """Pieces as they are made. Nothing is retried once a piece was given out.

        Raises: as `answer`, before the first piece; afterwards EngineFailed alone.
        """
        ...

    async def close(self) -> None: ...


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
    """The engine failed or did not answer in time. `timed_out`: which of the two."""

    def __init__(self, message: str, *, timed_out: bool = False) -> None:
        super().__init__(message)
        self.timed_out = timed_out
