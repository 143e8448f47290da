"""A chain that ends in a role that paints or speaks: its writers first, if it has any, then one picture or recording.

The writers get the client's text, each later one its predecessor's answer. The last role is asked by its template over
what was written, as in bulk generation. Failed steps are reported too, as for a chain of texts.
"""

from collections.abc import Callable
from dataclasses import dataclass

import xxhash

from headrace.engines.asking import medium_of
from headrace.engines.base import EngineFailed
from headrace.engines.chain import Conversation, LoadedRole, RoleChain, Step, reported, step_seed
from headrace.engines.media import MediaEngine, MediaTurn
from headrace.engines.media_bytes import MediaFacts
from headrace.engines.messages import asked_of
from headrace.version_sets.sets import Member


@dataclass(frozen=True, kw_only=True, slots=True)
class MediaWish:
    """The input of a chain that ends in a picture or a recording. `speed`: None: the version set's."""

    prompt: str
    speed: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadedMaker:
    """`facts`: of what it made when it was tried."""

    member: Member
    engine: MediaEngine
    facts: MediaFacts


@dataclass(frozen=True, kw_only=True, slots=True)
class Made:
    """A picture or a recording. `asked`: what it shows or says: the writers' text in the last role's template."""

    content: bytes
    facts: MediaFacts
    asked: str


@dataclass(frozen=True, kw_only=True, slots=True)
class MediaChain:
    """A version set's writers, in order, and the role that paints or speaks. `id`: the version set's id."""

    id: str
    writers: tuple[LoadedRole, ...]
    maker: LoadedMaker

    async def make(self, wish: MediaWish, *, unit: str, seed: int, report: Callable[[Step], None]) -> Made:
        """What the last role makes.

        Args: seed: the first role gets it unchanged, and later ones seeds that follow from it, as in `RoleChain`.

        Raises:
            TurnRefused, EngineBusy, EngineFailed: from the first role that fails; EngineFailed also if nothing was
                written.
            InvalidInput: the last role's template has a place that a client's text does not fill.
        """
        text = wish.prompt
        if self.writers:
            writers = RoleChain(id=self.id, roles=self.writers)
            answer = await writers.answer(Conversation.of(text), unit=unit, seed=seed, report=report)
            text = answer.text
            if not text.strip():
                writer = self.writers[-1].member.role
                raise EngineFailed(f"{writer} wrote nothing that {self.maker.member.role} could be asked for.")
        roles = tuple(role.member.role for role in self.writers)
        template = self.maker.member.user_template
        asked = asked_of(template, text=text, prompt={"text": wish.prompt}, writers=roles)
        turn = MediaTurn(unit=unit, text=asked, seed=step_seed(seed, len(roles)), speed=wish.speed)
        return await _made(self.maker, turn, report)


async def _made(maker: LoadedMaker, turn: MediaTurn, report: Callable[[Step], None]) -> Made:
    with reported(maker.member, turn, maker.engine.name, report) as said:
        # Pictures and recordings are not counted in tokens.
        said |= {"num_prompt_tokens": None, "num_output_tokens": None}
        made, facts = await medium_of(maker.engine, maker.member, turn)
        digest = xxhash.xxh3_128_hexdigest(made.content)
        said |= {"error": "", "finish": "stop", "facts": facts, "num_bytes": len(made.content), "digest": digest}
        if made.replica:
            said["replica"] = made.replica
    return Made(content=made.content, facts=facts, asked=turn.text)
