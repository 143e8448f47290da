"""Pictures and recordings from engines, for bulk generation: as `headrace.engines.rows` for texts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from headrace.engines.asking import close, media_of
from headrace.engines.base import EngineBusy, EngineFailed, NoAnswer, TurnRefused
from headrace.engines.deployment import Deployment
from headrace.engines.event_loop import LoopThread
from headrace.engines.media import MediaAnswer, MediaEngine, MediaTurn
from headrace.engines.media_bytes import MediaFacts, prepare
from headrace.engines.registry import open_media_engine
from headrace.engines.rows import Maker, error_text, stop_if_away
from headrace.store.objects import ObjectStore
from headrace.version_sets.sets import Member, VersionSet

# What the control turn asks for, which tests whether an engine makes anything at all.
_CONTROL_TEXT = "A mill wheel."


@dataclass(frozen=True, kw_only=True)
class MediaRequest:
    """One picture or recording to make. All randomness of it comes from `seed`."""

    row_id: str
    text: str
    seed: int


@dataclass(frozen=True, kw_only=True)
class MediaResult:
    """`refused`: by a server's policy; `skipped`: there was nothing to make it of; `error` says why there is none."""

    content: bytes | None
    facts: MediaFacts | None
    finish_reason: Literal["stop", "error", "refused", "skipped"]
    error: str | None = None
    note: str | None = None
    attributes: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def none(cls, reason: Literal["error", "refused", "skipped"], why: BaseException | str) -> "MediaResult":
        return cls(content=None, facts=None, finish_reason=reason, error=error_text(why))


class MediaMaker(Maker, Protocol):
    """Makes pictures or recordings of one version set's role; otherwise as a `RowMaker`."""

    def generate(self, requests: Sequence[MediaRequest]) -> list[MediaResult]:
        """One result for each request, in order.

        Raises:
            EngineUnavailable: none can be made now; a later run continues here.
        """
        ...


class MediaRows:
    """Rows of one role that paints or speaks."""

    def __init__(self, member: Member, engine: MediaEngine) -> None:
        self._member, self._engine = member, engine
        self._loop = LoopThread()
        self.name, self.build, self.deterministic = engine.name, engine.build, engine.deterministic

    def generate(self, requests: Sequence[MediaRequest]) -> list[MediaResult]:
        return self._loop.run(self._generated(requests))

    def close(self) -> None:
        try:
            self._loop.run(close(self._engine))
        finally:
            self._loop.close()

    async def _generated(self, requests: Sequence[MediaRequest]) -> list[MediaResult]:
        turns = [MediaTurn(unit=one.row_id, text=one.text, seed=one.seed) for one in requests]
        answers = await media_of(self._engine, self._member, turns)
        await stop_if_away([one for one in answers if isinstance(one, NoAnswer)], self._makes_others)
        return [_result(one) for one in answers]

    async def _makes_others(self) -> bool:
        control = MediaTurn(unit="control", text=_CONTROL_TEXT, seed=0)
        [answer] = await media_of(self._engine, self._member, [control])
        return not isinstance(answer, NoAnswer)


def open_media_rows(version_set: VersionSet, role: str, objects: ObjectStore, deployment: Deployment) -> MediaRows:
    """The loaded engine of a set's role that paints or speaks.

    Raises:
        InvalidInput, HandoffMissing, HandoffCorrupt, EngineUnavailable: see `open_media_engine`.
    """
    member = version_set.member(role)
    prepare(member.picture or member.speech)
    return MediaRows(member, open_media_engine(member, version_set.engine_of(role), objects, deployment))


def _result(answer: tuple[MediaAnswer, MediaFacts] | TurnRefused | EngineBusy | EngineFailed) -> MediaResult:
    if isinstance(answer, NoAnswer):
        is_policy = isinstance(answer, TurnRefused) and answer.by_policy
        return MediaResult.none("refused" if is_policy else "error", str(answer))
    made, facts = answer
    return MediaResult(
        content=made.content,
        facts=facts,
        finish_reason="stop",
        note=made.note or None,
        attributes=dict(made.attributes),
    )
