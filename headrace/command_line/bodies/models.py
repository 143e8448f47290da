"""Of `headrace model`."""

from dataclasses import dataclass

from headrace.engines.host.table_view import AccountRow, ModelRow
from headrace.registry.model_versions import ModelVersion


@dataclass(frozen=True, kw_only=True)
class IndexedWeightsBody:
    """Weights whose tensors are in segments that versions share."""

    weights_digest: str
    num_bytes: int
    """Of the files that are handed out."""
    own_bytes: int
    """Of them, in no index before this one, in the order of the digests: what it costs beside the others."""
    has_whole_files: bool
    """Whether the whole files are stored too; a collection takes them."""


@dataclass(frozen=True, kw_only=True)
class ModelsBody:
    """`headrace model ls --json`. Losses are nats per token, times seconds since the epoch."""

    models: tuple[ModelVersion, ...]
    indexed: tuple[IndexedWeightsBody, ...] = ()
    """Of the listed versions, each weights once."""


@dataclass(frozen=True, kw_only=True)
class IndexBody:
    """`headrace model index --json`."""

    indexed: tuple[IndexedWeightsBody, ...]


@dataclass(frozen=True, kw_only=True)
class ShownModelBody:
    """`headrace model show --json`."""

    model: ModelVersion
    directory: str
    """Where the files are."""
    load: str
    """The line of Python that loads them."""
    base: str | None = None
    """Where the base's files are, of an adapter."""


@dataclass(frozen=True, kw_only=True)
class LoadedModelsBody:
    """`headrace model loaded --json`."""

    socket: str
    """Where the engine host listens."""
    is_there: bool
    """Whether one does; if not, no model is held for several runs."""
    accounts: tuple[AccountRow, ...]
    """The memory for models at each place."""
    models: tuple[ModelRow, ...]
    """Those that it holds, has held, or was asked for."""
