"""Asks version sets what was asked in a call: what each hears, and how soon it says something.

As a gateway does it: the samples to the listener, its text behind the call's context to the writers, their first
sentence to the speaker. Then it stops: nobody listens. Sets that share a model share it here, too.
"""

import time
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass

from headrace.engines.asking import close
from headrace.engines.base import Engine, EngineBusy, EngineFailed, LoadedModel, Message, TurnRefused
from headrace.engines.chain import LoadedRole, RoleChain
from headrace.engines.deployment import Deployment
from headrace.engines.event_loop import LoopThread
from headrace.engines.hearing import HearingEngine
from headrace.engines.media import MediaEngine
from headrace.engines.media_bytes import MediaFacts
from headrace.engines.media_chain import LoadedMaker
from headrace.engines.registry import EngineKey, engine_key, open_engine, open_hearing_engine, open_media_engine
from headrace.engines.spoken_chain import LoadedListener, SpokenChain
from headrace.store.objects import ObjectStore
from headrace.version_sets.sets import EngineSpec, Member, VersionSet
from headrace.voice.sentences import Sentences

_OPENED_BY = {"text": open_engine, "transcript": open_hearing_engine, "speech": open_media_engine}


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """One spoken turn. `pcm`: as engines hear it. `context`: what was said before it; its own transcript follows."""

    unit: str
    pcm: bytes
    context: tuple[Message, ...]
    seed: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Replayed:
    """What one set made of it. `first_audio_seconds`: None: there was none. `error`: None: it did not fail."""

    heard: str = ""
    first_sentence: str = ""
    first_audio_seconds: float | None = None
    error: str | None = None


class Replaying:
    """Several version sets, loaded. Used from one thread."""

    def __init__(self, chains: Mapping[str, SpokenChain], engines: Sequence[LoadedModel]) -> None:
        self._chains, self._engines = chains, engines
        self._loop = LoopThread()

    def replay(self, version_set: str, asked: Asked) -> Replayed:
        return self._loop.run(replayed(self._chains[version_set], asked))

    def close(self) -> None:
        try:
            for engine in self._engines:
                self._loop.run(close(engine))
        finally:
            self._loop.close()


async def replayed(chain: SpokenChain, asked: Asked) -> Replayed:
    """Asks one set."""
    heard, sentence = "", ""
    begun = time.monotonic()
    try:
        heard = await chain.heard(asked.pcm, unit=asked.unit, report=lambda step: None)
        if heard:
            sentence = await _first_sentence(chain, asked, heard)
        if not sentence:
            return Replayed(heard=heard)
        await chain.spoken(sentence, 0, unit=asked.unit, seed=asked.seed, report=lambda step: None)
    except (TurnRefused, EngineBusy, EngineFailed) as error:
        return Replayed(heard=heard, first_sentence=sentence, error=str(error))
    return Replayed(heard=heard, first_sentence=sentence, first_audio_seconds=time.monotonic() - begun)


async def _first_sentence(chain: SpokenChain, asked: Asked, heard: str) -> str:
    """Empty: the writers wrote nothing that can be said."""
    messages = [*asked.context, Message(role="user", content=heard)]
    cutter = Sentences()
    pieces = chain.written(messages, unit=asked.unit, seed=asked.seed, report=lambda step: None)
    async with aclosing(pieces):
        async for piece in pieces:
            if found := cutter.add(piece.text):
                return found[0]
    return (cutter.end() or [""])[0]


def open_replaying(
    version_sets: Sequence[VersionSet], order: Sequence[str], objects: ObjectStore, deployment: Deployment
) -> Replaying:
    """Loads the sets, one after another. Args: order: the roles of the service's chain: listener, writers, speaker.

    Raises:
        InvalidInput, HandoffMissing, HandoffCorrupt, EngineUnavailable: see `open_engine`.
    """
    engines: dict[EngineKey, LoadedModel] = {}

    def opened(member: Member, spec: EngineSpec) -> LoadedModel:
        key = engine_key(member, spec)
        if key not in engines:
            engines[key] = _OPENED_BY[member.kind](member, spec, objects, deployment)
        return engines[key]

    chains: dict[str, SpokenChain] = {}
    try:
        for version_set in version_sets:
            members = [version_set.member(role) for role in order]
            models = [opened(member, version_set.engine_of(member.role)) for member in members]
            chains[version_set.id] = _chain(version_set.id, members, models)
    except BaseException:
        Replaying({}, list(engines.values())).close()
        raise
    return Replaying(chains, list(engines.values()))


def _chain(name: str, members: Sequence[Member], models: Sequence[LoadedModel]) -> SpokenChain:
    listening, *writing, speaking = models
    assert isinstance(listening, HearingEngine), "a service's chain begins with a role that hears"
    assert isinstance(speaking, MediaEngine), "and ends with one that speaks"
    roles: list[LoadedRole] = []
    for member, engine in zip(members[1:-1], writing, strict=True):
        assert isinstance(engine, Engine), "between them are writers"
        roles.append(LoadedRole(member=member, engine=engine))
    return SpokenChain(
        id=name,
        listener=LoadedListener(member=members[0], engine=listening),
        writers=RoleChain(id=name, roles=tuple(roles)),
        speaker=LoadedMaker(member=members[-1], engine=speaking, facts=MediaFacts(media_type="audio/wav")),
    )
