"""Tries whether one member of a version set works here: loads it, asks for something small, closes it."""

from headrace.engines.asking import close
from headrace.engines.base import TurnRefused
from headrace.engines.chain import LoadedRole, try_maker, try_role
from headrace.engines.deployment import Deployment
from headrace.engines.event_loop import LoopThread
from headrace.engines.registry import open_engine, open_media_engine
from headrace.errors import EngineUnavailable, Transient
from headrace.store.objects import ObjectStore
from headrace.version_sets.sets import EngineSpec, Member


def try_member(member: Member, spec: EngineSpec, objects: ObjectStore, deployment: Deployment) -> None:
    """Blocks while the member loads. Its answer is discarded.

    Raises:
        InvalidInput, HandoffMissing, HandoffCorrupt: the member can never work.
        EngineUnavailable: the member cannot be used now, or does not answer.
    """
    if member.kind == "text":
        engine = open_engine(member, spec, objects, deployment)
        answer = try_role(LoadedRole(member=member, engine=engine))
    else:
        engine = open_media_engine(member, spec, objects, deployment)
        answer = try_maker(member, engine)

    async def trial() -> None:
        try:
            await answer
        finally:
            await close(engine)

    # Its own thread keeps an engine's SystemExit from this one.
    loop = LoopThread()
    try:
        loop.run(trial())
    except (Transient, TurnRefused) as error:
        raise EngineUnavailable(
            f"{member.role} ({member.model_name} {member.model_version}) fails: {error}",
            role=member.role,
            model=f"{member.model_name}:{member.model_version}",
        ) from error
    finally:
        loop.close()
