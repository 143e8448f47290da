"""Tries whether one member of a version set works here: loads it, asks for a few words, closes it."""

from headrace.engines.asking import close
from headrace.engines.base import TurnRefused
from headrace.engines.chain import LoadedRole, try_role
from headrace.engines.deployment import Deployment
from headrace.engines.event_loop import LoopThread
from headrace.engines.registry import open_engine
from headrace.errors import EngineUnavailable, Transient
from headrace.store.objects import ObjectStore
from headrace.version_sets.sets import EngineSpec, Member


def try_member(member: Member, spec: EngineSpec, objects: ObjectStore, deployment: Deployment) -> None:
    """Blocks while the member loads. Its answer is discarded.

    Raises:
        InvalidInput, HandoffMissing, HandoffCorrupt: the member can never work.
        EngineUnavailable: the member cannot be used now, or does not answer.
    """
    engine = open_engine(member, spec, objects, deployment)

    async def trial() -> None:
        try:
            await try_role(LoadedRole(member=member, engine=engine))
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
