"""The engines that are installed: found by name through the entry point group `headrace.engines`, ours like anybody's.

A package offers an engine by one line of its pyproject.toml and one `EngineKind`:

    [project.entry-points."headrace.engines"]
    shout = "shouting.engine:KIND"

A campaign or a service then says `engine: {name: shout, volume: 3}`. What may stand there is the kind's `options`, a
frozen dataclass that checks itself; it is read when the file is loaded, long before anything is opened. The module that
holds a kind is imported for that, so it should be light: what costs seconds belongs inside `open`.
"""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from functools import cache, lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any

from headrace.engines.base import Engine
from headrace.engines.deployment import Deployment
from headrace.errors import InvalidInput, reason_of
from headrace.store.objects import ObjectStore, canonical_json
from headrace.store.sealed_directory import open_directory
from headrace.typed_mapping import from_mapping
from headrace.version_sets.sets import Decoding, EngineSpec, Member

GROUP = "headrace.engines"
# Fields of a spec that options may have; options of any other name go into `EngineSpec.options`.
_SPEC_FIELDS = frozenset(field.name for field in fields(EngineSpec)) - {"name", "build", "options"}


@dataclass(frozen=True, kw_only=True)
class Opening:
    """What an engine is opened with. `options`: of the kind's own class, as the version set has them."""

    member: Member
    spec: EngineSpec
    options: Any
    deployment: Deployment
    objects: ObjectStore

    def weights(self) -> Path:
        """The member's weights, in a directory; fetched where they are not here.

        Raises:
            HandoffMissing: they are not in the store.
            HandoffCorrupt: they are damaged.
        """
        return open_directory(self.objects, self.member.weights_digest)


@dataclass(frozen=True, kw_only=True)
class NoOptions:
    """Of an engine that takes none."""


@dataclass(frozen=True, kw_only=True)
class EngineKind:
    """One engine, before anything is loaded.

    Attributes:
        open: loads it; blocks, as long as it takes. Raises InvalidInput or EngineUnavailable, whose texts say why.
        options: a frozen dataclass: what a file may say beside the name. Values as JSON has them.
        packages: distributions whose version can change an output: they are a version set's `engine.build`.
        deterministic: the same turns together give the same bytes on the same kind of machine.
        needs_weights: it opens weights out of the store, so its model must be registered.
    """

    name: str
    open: Callable[[Opening], Engine]
    options: type = NoOptions
    packages: tuple[str, ...] = ()
    deterministic: bool = False
    needs_weights: bool = False

    @property
    def build(self) -> str:
        """Library versions here, such as `transformers 5.23.0, torch 2.13.0`; found without importing them."""
        return ", ".join(f"{package} {_version(package)}" for package in self.packages)

    def spec(self, options: Any) -> EngineSpec:
        """The engine as a version set names it, with the library versions of this installation."""
        given = asdict(options)
        named = {name: value for name, value in given.items() if name in _SPEC_FIELDS}
        others = {name: value for name, value in given.items() if name not in _SPEC_FIELDS}
        return EngineSpec(
            name=self.name,
            build=self.build,
            options=canonical_json(others).decode() if others else "",
            **named,
        )

    def options_of(self, spec: EngineSpec) -> Any:
        """Raises: InvalidInput: the version set's options are none that this kind takes."""
        given = json.loads(spec.options) if spec.options else {}
        for one in fields(self.options):
            if one.name in _SPEC_FIELDS:
                value = getattr(spec, one.name)
                given[one.name] = list(value) if isinstance(value, tuple) else value
        return from_mapping(self.options, given, f"engine {self.name!r}")


def engine_kind(name: str) -> EngineKind:
    """Raises: InvalidInput: no engine of this name is installed, or its package cannot be imported."""
    points = _points()
    if name not in points:
        if not points:
            raise InvalidInput(f"No engine {name!r} is installed, nor any other: set the project up again.")
        raise InvalidInput(
            f"No engine {name!r} is installed; there are {', '.join(sorted(points))}. Install the package that has it."
        )
    return _loaded(name)


def open_engine(member: Member, spec: EngineSpec, objects: ObjectStore, deployment: Deployment) -> Engine:
    """A loaded engine for one member of a version set.

    Blocks while weights are fetched and loaded: call it in a thread.

    Args: spec: the member's own engine, or its set's (`VersionSet.engine_of`).

    Raises:
        InvalidInput: no engine has this name, or the engine cannot run this member.
        HandoffMissing: the member's weights are not in the store.
        HandoffCorrupt: the weights are damaged.
        EngineUnavailable: the engine cannot be loaded now.
    """
    kind = engine_kind(spec.name)
    opening = Opening(member=member, spec=spec, options=kind.options_of(spec), deployment=deployment, objects=objects)
    engine = kind.open(opening)
    engine.name, engine.build, engine.deterministic = kind.name, kind.build, kind.deterministic
    return engine


# What two members that can share an engine have in common: all but their prompts.
EngineKey = tuple[EngineSpec, str, str, str, str, Decoding]


def engine_key(member: Member, spec: EngineSpec) -> EngineKey:
    name, version = member.model_name, member.model_version
    return (spec, name, version, member.weights_digest, member.weights_uri, member.decoding)


@lru_cache(maxsize=1)
def _points() -> dict[str, metadata.EntryPoint]:
    return {point.name: point for point in metadata.entry_points(group=GROUP)}


@cache
def _loaded(name: str) -> EngineKind:
    point = _points()[name]
    try:
        kind = point.load()
    except Exception as error:
        raise InvalidInput(f"The engine {name!r} ({point.value}) cannot be imported: {reason_of(error)}.") from error
    if not isinstance(kind, EngineKind) or kind.name != name:
        raise InvalidInput(
            f"The entry point {name!r} ({point.value}) must be an EngineKind of that name, got {kind!r}."
        )
    return kind


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"
