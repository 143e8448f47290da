"""The generation engines of this deployment, as a Dagster resource."""

import dagster as dg
from pydantic import Field

from headrace.generation.campaign import WRITER
from headrace.generation.engines.base import TextEngine
from headrace.generation.engines.opening import open_engine
from headrace.rollout.version_sets import VersionSet
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
