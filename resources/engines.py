"""The engines of this deployment for bulk work, as a Dagster resource."""

from collections.abc import Mapping

import dagster as dg
from pydantic import Field

from headrace.engines.base import Engine
from headrace.engines.chain import RoleChain
from headrace.engines.deployment import Deployment
from headrace.engines.registry import EngineKey, engine_key, open_engine
from headrace.engines.rows import ChainRows
from headrace.engines.trial import try_member
from headrace.generation.campaign import WRITER
from headrace.store.objects import ObjectStore
from headrace.version_sets.sets import EngineSpec, Member, VersionSet


class EnginesResource(dg.ConfigurableResource):
    """An engine's settings outside its version set: secrets and patience. They cannot change an output."""

    api_key: str | None = Field(
        default=None, description='Bearer token for OpenAI-compatible servers; give it as dg.EnvVar("…").'
    )
    request_seconds: float = Field(
        default=120.0, gt=0, description="How long one request to a server may take, in seconds."
    )

    def open(
        self,
        member: Member,
        spec: EngineSpec,
        objects: ObjectStore,
        *,
        replicas: Mapping[str, tuple[str, ...]] | None = None,
    ) -> Engine:
        """Raises: InvalidInput, HandoffMissing, HandoffCorrupt, EngineUnavailable: see `open_engine`."""
        return open_engine(member, spec, objects, self._deployment(replicas))

    def _deployment(self, replicas: Mapping[str, tuple[str, ...]] | None) -> Deployment:
        return Deployment.of_bulk(api_key=self.api_key, request_seconds=self.request_seconds, replicas=replicas)

    def open_rows(
        self,
        version_set: VersionSet,
        objects: ObjectStore,
        *,
        replicas: Mapping[str, tuple[str, ...]] | None = None,
    ) -> ChainRows:
        """The loaded engines of a set's roles. Roles that differ only in their prompts share one.

        Args:
            replicas: base URL in the set → the servers of the same model, if there are several.

        Raises:
            InvalidInput, HandoffMissing, HandoffCorrupt, EngineUnavailable: see `open_engine`.
        """
        loaded: dict[EngineKey, Engine] = {}
        engines: dict[str, Engine] = {}
        # The set's order, not the present campaign file's, since the set decides the rows.
        order = version_set.chain or (WRITER,)
        for role in order:
            member, spec = version_set.member(role), version_set.engine_of(role)
            key = engine_key(member, spec)
            if key not in loaded:
                loaded[key] = self.open(member, spec, objects, replicas=replicas)
            engines[role] = loaded[key]
        return ChainRows(RoleChain.of(version_set, order, engines))

    def try_member(
        self,
        member: Member,
        version_set: VersionSet,
        objects: ObjectStore,
        *,
        replicas: Mapping[str, tuple[str, ...]] | None = None,
    ) -> None:
        """Loads one member of a set and lets it answer; the answer is discarded.

        Args:
            replicas: as `open_rows` takes them.

        Raises: InvalidInput, HandoffMissing, HandoffCorrupt, EngineUnavailable: see `headrace.engines.trial`.
        """
        try_member(member, version_set.engine_of(member.role), objects, self._deployment(replicas))
