"""Of `headrace model`."""

from dataclasses import dataclass

from headrace.registry.model_versions import ModelVersion


@dataclass(frozen=True, kw_only=True)
class ModelsBody:
    """`headrace model ls --json`. Losses are nats per token, times seconds since the epoch."""

    models: tuple[ModelVersion, ...]


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
