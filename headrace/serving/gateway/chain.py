"""One unit of work: a service's roles, first to last, all on the one version set that the unit is pinned to.

The first role gets the conversation, the later ones the answer before them; the client gets the last one's. A set's
prompt template is applied here, to every message of the user, so that a conversation looks to the model as it did when
its earlier turns were answered. Failures are reported as steps too: a unit's records are whole, however it ends.
"""

import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass, replace

from headrace.keys import digest_text
from headrace.rollout.version_sets import Member, VersionSet
from headrace.serving.engines.base import Answer, Message, Piece, ServingEngine, Turn
from headrace.serving.gateway.openai_bodies import Ask


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadedRole:
    member: Member
    engine: ServingEngine


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """One role's part in a unit. `error`: the class of what it failed with, else empty."""

    member: Member
    turn: Turn
    seconds: float
    replica: str = ""
    text: str = ""
    finish: str = ""
    # None: nobody knows.
    num_prompt_tokens: int | None = 0
    num_output_tokens: int | None = 0
    error: str = ""

    @property
    def role(self) -> str:
        return self.member.role


@dataclass(frozen=True, kw_only=True, slots=True)
class Chain:
    """The roles of one loaded version set in a service's order. `client_decoding`: may clients set temperature."""

    version_set: VersionSet
    id: str
    roles: tuple[LoadedRole, ...]
    client_decoding: bool = False

    async def answer(self, ask: Ask, *, unit: str, seed: int, report: Callable[[Step], None]) -> Answer:
        """The last role's whole answer.

        Raises:
            TurnRefused, EngineBusy, EngineFailed: as the first role that fails.
        """
        text = await self._up_to_last(ask, unit, seed, report)
        return await _step(self.roles[-1], self._last_turn(ask, text, unit, seed), report)

    async def stream(
        self, ask: Ask, *, unit: str, seed: int, report: Callable[[Step], None]
    ) -> AsyncGenerator[Piece, None]:
        """The last role's answer in pieces; close the generator to end the work at the engine.

        Raises: as `answer`.
        """
        text = await self._up_to_last(ask, unit, seed, report)
        role, turn = self.roles[-1], self._last_turn(ask, text, unit, seed)
        started = time.monotonic()
        texts: list[str] = []
        last = None
        replica = ""
        error = "cancelled"
        try:
            pieces = role.engine.stream(turn)
            async with aclosing(pieces):  # pyright: ignore[reportArgumentType]
                async for piece in pieces:
                    texts.append(piece.text)
                    replica = piece.replica or replica
                    if piece.finish_reason is not None:
                        last, error = piece, ""
                    yield piece
        except Exception as failure:
            error = type(failure).__name__
            raise
        finally:
            report(
                Step(
                    member=role.member,
                    turn=turn,
                    seconds=time.monotonic() - started,
                    replica=replica or role.engine.name,
                    text="".join(texts),
                    finish=(last.finish_reason or "") if last else "",
                    num_prompt_tokens=last.num_prompt_tokens if last else 0,
                    num_output_tokens=last.num_output_tokens if last else 0,
                    error=error,
                )
            )

    async def _up_to_last(self, ask: Ask, unit: str, seed: int, report: Callable[[Step], None]) -> str | None:
        text = None
        for place, role in enumerate(self.roles[:-1]):
            turn = _turn(role.member, _messages(role.member, ask, text), unit, _seed_of_step(seed, place))
            text = (await _step(role, turn, report)).text
        return text

    def _last_turn(self, ask: Ask, text: str | None, unit: str, seed: int) -> Turn:
        """What the client may ask for itself concerns the answer that it gets."""
        member = self.roles[-1].member
        decoding = member.decoding
        allowed = self.client_decoding
        return Turn(
            unit=unit,
            messages=_messages(member, ask, text),
            temperature=ask.temperature if allowed and ask.temperature is not None else decoding.temperature,
            top_p=ask.top_p if allowed and ask.top_p is not None else decoding.top_p,
            max_tokens=min(ask.max_tokens or decoding.max_new_tokens, decoding.max_new_tokens),
            seed=_seed_of_step(seed, len(self.roles) - 1),
            stop=ask.stop,
        )


def first_turn(member: Member, ask: Ask, *, unit: str, seed: int = 0) -> Turn:
    """What one role is asked outside a chain."""
    turn = _turn(member, _messages(member, ask, None), unit, seed)
    return replace(turn, max_tokens=min(ask.max_tokens, turn.max_tokens)) if ask.max_tokens else turn


async def _step(role: LoadedRole, turn: Turn, report: Callable[[Step], None]) -> Answer:
    started = time.monotonic()
    error = "cancelled"
    try:
        answer = await role.engine.answer(turn)
        error = ""
    except Exception as failure:
        error = type(failure).__name__
        raise
    finally:
        if error:
            seconds = time.monotonic() - started
            report(Step(member=role.member, turn=turn, seconds=seconds, replica=role.engine.name, error=error))
    report(
        Step(
            member=role.member,
            turn=turn,
            seconds=time.monotonic() - started,
            replica=answer.replica,
            text=answer.text,
            finish=answer.finish_reason,
            num_prompt_tokens=answer.num_prompt_tokens,
            num_output_tokens=answer.num_output_tokens,
        )
    )
    return answer


def _messages(member: Member, ask: Ask, text: str | None) -> tuple[Message, ...]:
    """`text`: the answer of the role before; None: this is the first role.

    A set's and a client's system prompts become one message, since many chat templates know one alone.
    """
    if text is not None:
        given: tuple[Message, ...] = (Message(role="user", content=text),)
    else:
        given = ask.messages
    system = [member.system_prompt] if member.system_prompt else []
    system += [message.content for message in given if message.role == "system"]
    template = member.user_template
    turns = [
        message
        if template == "{text}" or message.role != "user"
        else Message(role="user", content=template.format(text=message.content))
        for message in given
        if message.role != "system"
    ]
    if system:
        turns.insert(0, Message(role="system", content="\n\n".join(system)))
    return tuple(turns)


def _turn(member: Member, messages: tuple[Message, ...], unit: str, seed: int) -> Turn:
    decoding = member.decoding
    return Turn(
        unit=unit,
        messages=messages,
        temperature=decoding.temperature,
        top_p=decoding.top_p,
        max_tokens=decoding.max_new_tokens,
        seed=seed,
    )


def _seed_of_step(seed: int, place: int) -> int:
    """In [0, 2^63), as every engine takes it. The first role's is the unit's own: a client's seed is used as it is."""
    if place == 0:
        return seed & ((1 << 63) - 1)
    return int(digest_text("step", str(seed), str(place))[:16], 16) >> 1
