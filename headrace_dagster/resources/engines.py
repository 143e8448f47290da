"""The engines of this deployment for bulk work, as a Dagster resource."""

import os
from collections.abc import Mapping
from pathlib import Path

import dagster as dg
from pydantic import Field

from headrace.clock import SystemClock
from headrace.engines.asker import Asker
from headrace.engines.base import Engine
from headrace.engines.deployment import Deployment
from headrace.engines.embedding import Embedder, EmbeddingModel, open_embedder
from headrace.engines.host.address import OFF, host_address
from headrace.engines.media_rows import MediaRows, open_media_rows
from headrace.engines.registry import open_engine
from headrace.engines.rows import ChainRows, open_rows
from headrace.engines.trial import try_member
from headrace.errors import HeadraceError
from headrace.store.objects import ObjectStore
from headrace.version_sets.sets import EngineSpec, Member, VersionSet

# As for a gateway.
ENGINE_KEY = "HEADRACE_ENGINE_KEY"


class EnginesResource(dg.ConfigurableResource):
    """An engine's settings outside its version set: secrets and patience. They cannot change an output."""

    api_key: str | None = Field(
        default=None, description='Bearer token for OpenAI-compatible servers; give it as dg.EnvVar("…").'
    )
    request_seconds: float = Field(
        default=120.0, gt=0, description="How long one request to a server may take, in seconds."
    )
    host: str = Field(
        default=OFF,
        description="Who holds models that runs without a GPU load: `off`: each run; `on`: this node's engine host, "
        "which the first run starts; else the socket of a host.",
    )

    def open(self, member: Member, spec: EngineSpec, objects: ObjectStore) -> Engine:
        """Raises: InvalidInput, HandoffMissing, HandoffCorrupt, EngineUnavailable: see `open_engine`."""
        return open_engine(member, spec, objects, self._deployment(objects))

    def open_embedder(self, wanted: EmbeddingModel, home: Path, objects: ObjectStore) -> Embedder:
        """Raises: InvalidInput: see `headrace.engines.embedding.open_embedder`."""
        return open_embedder(wanted, home, objects, self._deployment(objects))

    def models_in_memory(self, objects: ObjectStore) -> str | None:
        """What the engine host that runs ask holds now, as Markdown; None: they ask none, or it does not answer."""
        # Imported here: it imports what a code location does without.
        from headrace.engines.host.connection import table_of
        from headrace.engines.host.table_text import markdown_table

        address = host_address(self.host, objects, os.environ)
        try:
            table = table_of(address.socket_file) if address else None
        except HeadraceError:
            return None
        return markdown_table(table, SystemClock().now()) if table else None

    def _deployment(
        self,
        objects: ObjectStore,
        replicas: Mapping[str, tuple[str, ...]] | None = None,
        asker: Asker | None = None,
    ) -> Deployment:
        return Deployment.of_bulk(
            api_key=self.api_key,
            request_seconds=self.request_seconds,
            replicas=replicas,
            host=host_address(self.host, objects, os.environ),
            asker=asker,
        )

    def open_rows(
        self,
        version_set: VersionSet,
        objects: ObjectStore,
        *,
        replicas: Mapping[str, tuple[str, ...]] | None = None,
        asker: Asker | None = None,
    ) -> ChainRows:
        """Args:
            replicas: base URL in the set → the servers of the same model, if there are several.
            asker: for whom the rows are made, where a model is shared.

        Raises:
            InvalidInput, HandoffMissing, HandoffCorrupt, EngineUnavailable: see `headrace.engines.rows.open_rows`.
        """
        return open_rows(version_set, objects, self._deployment(objects, replicas, asker))

    def open_media(
        self,
        version_set: VersionSet,
        role: str,
        objects: ObjectStore,
        *,
        replicas: Mapping[str, tuple[str, ...]] | None = None,
        asker: Asker | None = None,
    ) -> MediaRows:
        """As `open_rows`, for a role that paints or speaks."""
        return open_media_rows(version_set, role, objects, self._deployment(objects, replicas, asker))

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
        try_member(member, version_set.engine_of(member.role), objects, self._deployment(objects, replicas))


def engines_resource(environment: Mapping[str, str], host: str) -> EnginesResource:
    """The engines of this deployment; servers that require a key get the one in HEADRACE_ENGINE_KEY.

    Args: host: as the resource takes it.
    """
    # Dagster's UI shows a resource's settings, but only the name of a variable.
    return EnginesResource(host=host, api_key=dg.EnvVar(ENGINE_KEY) if environment.get(ENGINE_KEY) else None)
