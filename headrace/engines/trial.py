"""Whether one member of a version set can be used here: loaded, asked a few words, closed."""

import asyncio

from headrace.engines.base import TurnRefused
from headrace.engines.chain import LoadedRole, try_role
from headrace.engines.deployment import Deployment
from headrace.engines.registry import open_engine
from headrace.errors import EngineUnavailable, Transient
from headrace.store.objects import ObjectStore
from headrace.version_sets.sets import EngineSpec, Member


def try_member(member: Member, spec: EngineSpec, objects: ObjectStore, deployment: Deployment) -> None:
    """Blocks, as long as loading takes. What it answers is thrown away.

    Raises:
        InvalidInput, HandoffMissing, HandoffCorrupt: it could never be used.
        EngineUnavailable: it cannot be used now, or answers nothing.
    """
    engine = open_engine(member, spec, objects, deployment)

    async def trial() -> None:
        try:
            await try_role(LoadedRole(member=member, engine=engine))
        finally:
            await engine.close()

    try:
        asyncio.run(trial())
    except (Transient, TurnRefused) as error:
        raise EngineUnavailable(f"{member.role} ({member.model_name} {member.model_version}) fails: {error}") from error
