"""Of `headrace versions`."""

from dataclasses import dataclass

from headrace.version_sets.sets import Difference, EngineSpec, Member


@dataclass(frozen=True, kw_only=True)
class KeptSetBody:
    id: str
    label: str | None
    """Its models by role; null: it cannot be read."""
    code_version: str | None
    error: str | None
    standings: dict[str, str]
    """By rollout: stable, candidate, proposed, rolled back, withdrawn or retired."""


@dataclass(frozen=True, kw_only=True)
class KeptSetsBody:
    """`headrace versions ls --json`."""

    version_sets: tuple[KeptSetBody, ...]


@dataclass(frozen=True, kw_only=True)
class ShownSetBody:
    """`headrace versions show --json`: the set as the store keeps it, without passwords; what is empty is left out."""

    format_version: int
    id: str
    members: tuple[Member, ...]
    engine: EngineSpec
    code_version: str
    chain: tuple[str, ...] = ()
    """The roles' order, if several make a row."""


@dataclass(frozen=True, kw_only=True)
class SetsComparedBody:
    """`headrace versions diff --json`."""

    before: str
    after: str
    differences: tuple[Difference, ...]
