"""A chain of roles on one version set: the first role gets the conversation, each later one its predecessor's answer.

A live unit goes through the chain alone; bulk rows go through it together, role by role. Failed steps are reported too,
so a unit's records are complete, however it ends.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from headrace.engines.asking import answer_of, answers_of, media_of, pieces_of, transcript_of
from headrace.engines.base import Answer, Engine, EngineFailed, LoadedModel, Message, NoAnswer, Piece, Turn
from headrace.engines.hearing import SAMPLE_RATE, HearingEngine, HearingTurn
from headrace.engines.media import MediaEngine, MediaTurn
from headrace.engines.media_bytes import MediaFacts
from headrace.engines.messages import messages_for
from headrace.errors import reason_of
from headrace.keys import digest_text
from headrace.version_sets.sets import Member, VersionSet

_T = TypeVar("_T")

# The trial of a member: its prompt, the most tokens of the answer, and the patience.
_TRIAL_PROMPT = "Say hello."
_TRIAL_TOKENS = 4
_TRIAL_SECONDS_MAX = 120.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Conversation:
    """The input of a chain. None: the version set's value. All but `messages` applies to the last role."""

    messages: tuple[Message, ...]
    temperature: float | None = None
    top_p: float | None = None
    # At most the version set's `max_new_tokens`.
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()

    @classmethod
    def of(cls, text: str, *, max_tokens: int | None = None) -> "Conversation":
        """A conversation of one user message."""
        return Conversation(messages=(Message(role="user", content=text),), max_tokens=max_tokens)


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadedRole:
    member: Member
    engine: Engine

    def turn(self, asked: Conversation, *, unit: str, seed: int, with_decoding: bool = False) -> Turn:
        """Args: with_decoding: use temperature and top_p of `asked` where given."""
        member, decoding = self.member, self.member.writing
        temperature = asked.temperature if with_decoding and asked.temperature is not None else decoding.temperature
        top_p = asked.top_p if with_decoding and asked.top_p is not None else decoding.top_p
        return Turn(
            unit=unit,
            messages=messages_for(member, asked.messages),
            temperature=temperature,
            top_p=top_p,
            max_tokens=min(asked.max_tokens or decoding.max_new_tokens, decoding.max_new_tokens),
            seed=seed,
            stop=asked.stop,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """One role's part in a unit. `error`: the class of its failure, or empty.

    `facts`, `num_bytes`, `digest`: of a picture or a recording, whose bytes are not kept; the digest is its xxh3-128 in
    hexadecimal digits, as in the tables of bulk generation.
    """

    member: Member
    turn: Turn | MediaTurn | HearingTurn
    seconds: float
    replica: str = ""
    text: str = ""
    finish: str = ""
    # None: unknown.
    num_prompt_tokens: int | None = 0
    num_output_tokens: int | None = 0
    facts: MediaFacts | None = None
    num_bytes: int = 0
    digest: str = ""
    error: str = ""

    @property
    def role(self) -> str:
        return self.member.role


@dataclass(frozen=True, kw_only=True, slots=True)
class RoleChain:
    """A version set's roles in the order of their answers. `client_decoding`: whether clients may set the temperature.

    `id`: the version set's id.
    """

    id: str
    roles: tuple[LoadedRole, ...]
    client_decoding: bool = False

    @classmethod
    def of(
        cls,
        version_set: VersionSet,
        order: Sequence[str],
        engines: Mapping[str, Engine],
        *,
        client_decoding: bool = False,
    ) -> "RoleChain":
        """Args: engines: by role, at least those in `order`. Raises: InvalidInput: the set lacks a role."""
        roles = tuple(LoadedRole(member=version_set.member(role), engine=engines[role]) for role in order)
        return RoleChain(id=version_set.id, roles=roles, client_decoding=client_decoding)

    async def answer(self, asked: Conversation, *, unit: str, seed: int, report: Callable[[Step], None]) -> Answer:
        """Returns the last role's whole answer.

        Raises:
            TurnRefused, EngineBusy, EngineFailed: from the first role that fails.
        """
        given = await self._up_to_last(asked, unit, seed, report)
        return await _step(self.roles[-1], self._last_turn(asked, given, unit, seed), report)

    async def stream(
        self, asked: Conversation, *, unit: str, seed: int, report: Callable[[Step], None]
    ) -> AsyncGenerator[Piece, None]:
        """The last role's answer in pieces; close the generator to end the work at the engine.

        Raises: as `answer`.
        """
        given = await self._up_to_last(asked, unit, seed, report)
        role, turn = self.roles[-1], self._last_turn(asked, given, unit, seed)
        # UTF-8 that grows in place: thousands of separate pieces, which `StringIO` keeps too before Python 3.13, take
        # several times the memory of their characters and leave holes where they were.
        text = bytearray()
        last: Piece | None = None
        with reported(role.member, turn, role.engine.name, report) as said:
            try:
                async with aclosing(pieces_of(role.engine, turn)) as pieces:
                    async for piece in pieces:
                        text += piece.text.encode()
                        if piece.replica:
                            said["replica"] = piece.replica
                        if piece.finish_reason is not None:
                            last = piece
                        yield piece
            finally:
                said |= {"text": text.decode(), **(_told(last) if last else {})}

    async def answer_together(self, asked: Sequence[tuple[str, Conversation, int]]) -> list[Answer | NoAnswer]:
        """For each of (unit, conversation, seed), in order, the last role's answer, or why some role gave none.

        Raises: as `answers_of`.
        """
        found: list[Answer | NoAnswer | None] = [None] * len(asked)
        given = [conversation for _, conversation, _ in asked]
        for place, role in enumerate(self.roles):
            is_last = place == len(self.roles) - 1
            going_on = [index for index, one in enumerate(found) if one is None]
            turns = []
            for index in going_on:
                unit, conversation, seed = asked[index]
                if is_last:
                    turns.append(self._last_turn(conversation, given[index], unit, seed))
                else:
                    turns.append(self._inner_turn(place, given[index], unit, seed))
            for index, answer in zip(going_on, await answers_of(role.engine, turns), strict=True):
                if is_last or not isinstance(answer, Answer):
                    found[index] = answer
                else:
                    given[index] = Conversation.of(answer.text)
        return [one if one is not None else EngineFailed("No role was asked.") for one in found]

    async def _up_to_last(
        self, asked: Conversation, unit: str, seed: int, report: Callable[[Step], None]
    ) -> Conversation:
        """Returns the last role's input."""
        given = asked
        for place, role in enumerate(self.roles[:-1]):
            answer = await _step(role, self._inner_turn(place, given, unit, seed), report)
            given = Conversation.of(answer.text)
        return given

    def _inner_turn(self, place: int, given: Conversation, unit: str, seed: int) -> Turn:
        return self.roles[place].turn(Conversation(messages=given.messages), unit=unit, seed=step_seed(seed, place))

    def _last_turn(self, asked: Conversation, given: Conversation, unit: str, seed: int) -> Turn:
        """The client's wishes apply to the answer that it gets."""
        wanted = asked if given is asked else replace(asked, messages=given.messages)
        place = len(self.roles) - 1
        return self.roles[-1].turn(wanted, unit=unit, seed=step_seed(seed, place), with_decoding=self.client_decoding)


async def try_role(role: LoadedRole) -> None:
    """Asks for a few words and discards them.

    Raises: TurnRefused, EngineBusy, EngineFailed: the engine does not answer.
    """
    turn = role.turn(Conversation.of(_TRIAL_PROMPT, max_tokens=_TRIAL_TOKENS), unit="smoke-test", seed=0)
    await _within_trial(answer_of(role.engine, turn), role.member, role.engine)


async def try_listener(member: Member, engine: HearingEngine) -> None:
    """Has a member that hears hear half a second of silence. Raises: as `try_role`."""
    turn = HearingTurn(unit="smoke-test", pcm=bytes(SAMPLE_RATE))
    await _within_trial(transcript_of(engine, turn), member, engine)


async def try_maker(member: Member, engine: MediaEngine) -> MediaFacts:
    """Asks a member that paints or speaks for one item and discards it. Returns what it was. Raises: as `try_role`."""
    turn = MediaTurn(unit="smoke-test", text=_TRIAL_PROMPT, seed=0)
    [made] = await _within_trial(media_of(engine, member, [turn]), member, engine)
    if isinstance(made, NoAnswer):
        raise made
    _, facts = made
    return facts


async def _within_trial(answer: Awaitable[_T], member: Member, engine: LoadedModel) -> _T:
    patience = asyncio.timeout(_TRIAL_SECONDS_MAX)
    try:
        async with patience:
            return await answer
    except TimeoutError as error:
        if not patience.expired():
            raise EngineFailed(reason_of(error)) from error
        raise EngineFailed(
            f"{member.role} on {engine.name} did not answer a first prompt in {_TRIAL_SECONDS_MAX:.0f} s.",
            timed_out=True,
        ) from None


async def _step(role: LoadedRole, turn: Turn, report: Callable[[Step], None]) -> Answer:
    with reported(role.member, turn, role.engine.name, report) as said:
        answer = await answer_of(role.engine, turn)
        said |= {"replica": answer.replica, "text": answer.text, **_told(answer)}
    return answer


def _told(last: Answer | Piece) -> dict[str, Any]:
    return {
        "error": "",
        "finish": last.finish_reason or "",
        "num_prompt_tokens": last.num_prompt_tokens,
        "num_output_tokens": last.num_output_tokens,
    }


@contextmanager
def reported(
    member: Member, turn: Turn | MediaTurn | HearingTurn, engine: str, report: Callable[[Step], None]
) -> Iterator[dict[str, Any]]:
    """Times one role's turn, and reports it when the block ends, however it ends.

    Yields the other fields of its `Step`, to be filled in; without an answer it counts as cancelled or failed.
    """
    started = time.monotonic()
    said: dict[str, Any] = {"replica": engine, "error": "cancelled"}
    try:
        yield said
    except Exception as failure:
        said["error"] = type(failure).__name__
        raise
    finally:
        report(Step(member=member, turn=turn, seconds=time.monotonic() - started, **said))


def step_seed(seed: int, place: int) -> int:
    """In [0, 2^63), as engines require. The first role gets the unit's own: a client's seed applies unchanged."""
    if place == 0:
        return seed & ((1 << 63) - 1)
    return int(digest_text("step", str(seed), str(place))[:16], 16) >> 1
