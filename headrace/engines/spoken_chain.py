"""A chain that is spoken with: a role that hears, roles that write, and one that speaks, sentence by sentence.

Each part is asked by itself, since a turn of speech crosses them at its own pace: what was heard may never be answered,
and a sentence is spoken while the next one is being written.
"""

from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass

from headrace.engines.asking import medium_of, transcript_of
from headrace.engines.base import Answer, Message, Piece
from headrace.engines.chain import Conversation, RoleChain, Step, reported, step_seed
from headrace.engines.hearing import HearingEngine, HearingTurn
from headrace.engines.media import MediaTurn
from headrace.engines.media_chain import LoadedMaker
from headrace.engines.messages import asked_of
from headrace.version_sets.sets import Member


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadedListener:
    member: Member
    engine: HearingEngine


@dataclass(frozen=True, kw_only=True, slots=True)
class SpokenChain:
    """A version set's roles for calls. `id`: the version set's id."""

    id: str
    listener: LoadedListener
    writers: RoleChain
    speaker: LoadedMaker

    async def heard(self, pcm: bytes, *, unit: str, report: Callable[[Step], None]) -> str:
        """What was said in samples as `HearingTurn` has them; empty: nothing.

        Raises: TurnRefused, EngineBusy, EngineFailed.
        """
        member, engine = self.listener.member, self.listener.engine
        turn = HearingTurn(unit=unit, pcm=pcm)
        with reported(member, turn, engine.name, report) as said:
            answer: Answer = await transcript_of(engine, turn)
            said |= {"error": "", "finish": "stop", "replica": answer.replica, "text": answer.text}
            said |= {"num_prompt_tokens": None, "num_output_tokens": None}
        return answer.text

    def written(
        self, messages: Sequence[Message], *, unit: str, seed: int, report: Callable[[Step], None]
    ) -> AsyncGenerator[Piece, None]:
        """The writers' answer in pieces. Raises: as `RoleChain.stream`."""
        return self.writers.stream(Conversation(messages=tuple(messages)), unit=unit, seed=seed, report=report)

    async def spoken(
        self, sentence: str, place: int, *, unit: str, seed: int, report: Callable[[Step], None]
    ) -> tuple[bytes, float]:
        """A WAV of one sentence, and how many seconds it lasts.

        Args: place: of the sentence in its answer: the same sentence there gets the same bytes, whoever says it again.

        Raises: TurnRefused, EngineBusy, EngineFailed; InvalidInput: the speaker's template has another place than text.
        """
        member, engine = self.speaker.member, self.speaker.engine
        roles = tuple(role.member.role for role in self.writers.roles)
        asked = asked_of(member.user_template, text=sentence, prompt={"text": sentence}, writers=roles)
        turn = MediaTurn(unit=unit, text=asked, seed=step_seed(step_seed(seed, len(roles)), place + 1))
        with reported(member, turn, engine.name, report) as said:
            made, facts = await medium_of(engine, member, turn)
            said |= {"error": "", "finish": "stop", "facts": facts, "num_bytes": len(made.content)}
            said |= {"num_prompt_tokens": None, "num_output_tokens": None, "replica": made.replica}
        return made.content, facts.duration_seconds or 0.0
