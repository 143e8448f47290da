"""Of `headrace versions`."""

from dataclasses import dataclass

from headrace.version_sets.sets import Decoding, Difference


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
class EngineBody:
    """The last three are left out where they are empty."""

    name: str
    dtype: str
    num_threads: int
    build: str
    """Library versions."""
    base_url: str | None
    """Without a password."""
    model: str | None
    template_date: str | None = None
    special_tokens: tuple[str, ...] = ()
    options: str = ""
    """Of another package's engine: canonical JSON."""


@dataclass(frozen=True, kw_only=True)
class MemberBody:
    role: str
    model_name: str
    model_version: str
    weights_digest: str
    weights_uri: str
    """Empty: a server's own model."""
    system_prompt: str
    user_template: str
    decoding: Decoding
    engine: EngineBody | None = None
    """Left out: the set's."""


@dataclass(frozen=True, kw_only=True)
class ShownSetBody:
    """`headrace versions show --json`: the set as the store keeps it."""

    format_version: int
    id: str
    members: tuple[MemberBody, ...]
    engine: EngineBody
    code_version: str
    chain: tuple[str, ...] = ()
    """The roles' order, if several make a row; left out otherwise."""


@dataclass(frozen=True, kw_only=True)
class SetsComparedBody:
    """`headrace versions diff --json`."""

    before: str
    after: str
    differences: tuple[Difference, ...]
