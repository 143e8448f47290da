"""The generation engines of this deployment, as a Dagster resource."""

import dagster as dg
from pydantic import Field

from headrace.errors import EngineUnavailable
from headrace.generation.campaign import WRITER
from headrace.generation.engines.base import GenerationRequest, TextEngine
from headrace.generation.engines.opening import open_engine
from headrace.rollout.version_sets import Member, VersionSet
from headrace.store.objects import ObjectStore


class EnginesResource(dg.ConfigurableResource):
    """What an engine needs beside its version set: secrets and patience. Neither can change an output."""

    api_key: str | None = Field(
        default=None, description='Bearer token for OpenAI-compatible servers; give it as dg.EnvVar("…").'
    )
    request_seconds: float = Field(
        default=120.0, gt=0, description="How long one request to a server may take, in seconds."
    )

    def open_writer(self, version_set: VersionSet, objects: ObjectStore) -> TextEngine:
        """The engine of a set's writer, loaded.

        Raises:
            InvalidInput, HandoffMissing, HandoffCorrupt, EngineUnavailable: see `open_engine`.
        """
        return open_engine(
            version_set.member(WRITER),
            version_set.engine,
            objects,
            api_key=self.api_key,
            request_seconds=self.request_seconds,
        )

    def try_member(self, member: Member, version_set: VersionSet, objects: ObjectStore) -> None:
        """Load one member of a set and let it make a row, which is thrown away.

        Raises:
            InvalidInput, HandoffMissing, HandoffCorrupt: it could never be used.
            EngineUnavailable: it cannot be used now, or makes no row.
        """
        engine = open_engine(
            member,
            version_set.engine_of(member.role),
            objects,
            api_key=self.api_key,
            request_seconds=self.request_seconds,
        )
        try:
            (result,) = engine.generate([GenerationRequest(row_id="smoke-test", prompt="Say one word.", seed=1)])
        finally:
            engine.close()
        if result.finish_reason == "error":
            raise EngineUnavailable(f"{member.role} ({member.model_name} {member.model_version}) fails: {result.error}")
