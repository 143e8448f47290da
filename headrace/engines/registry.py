"""The installed engines, found by name through the entry point group `headrace.engines`, including our own.

A package offers an engine by one line of its pyproject.toml and one `EngineKind`:

    [project.entry-points."headrace.engines"]
    shout = "shouting.engine:KIND"

A campaign or a service then says `engine: {name: shout, volume: 3}`. The kind's `options`, a frozen dataclass that
checks itself, defines what may stand there; it is read when the file is loaded, long before anything is opened. That
imports the kind's module, so the module should be light: costly imports belong inside `open`.
"""

import asyncio
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace
from functools import cache, lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar, get_args

from headrace.engines.base import Engine, LoadedModel, shown
from headrace.engines.cpu import cpu_kind
from headrace.engines.deployment import Deployment
from headrace.engines.hearing import HearingEngine
from headrace.engines.media import MediaEngine
from headrace.engines.option_types import check_options
from headrace.errors import InvalidInput, reason_of
from headrace.store.objects import ObjectStore, canonical_json
from headrace.store.sealed_directory import open_directory
from headrace.user_files.shapes import from_mapping
from headrace.version_sets.media_settings import Hearing, MemberKind, Picture, Speech
from headrace.version_sets.sets import Decoding, EngineSpec, Member

GROUP = "headrace.engines"
# Options with these names become fields of the spec; all others go into `EngineSpec.options`.
_SPEC_FIELDS = frozenset(field.name for field in fields(EngineSpec)) - {"name", "build", "cpu", "options"}


@dataclass(frozen=True, kw_only=True)
class Opening:
    """The arguments for opening an engine. `options`: of the kind's own class, with the version set's values."""

    member: Member
    spec: EngineSpec
    options: Any
    deployment: Deployment
    objects: ObjectStore

    def weights(self) -> Path:
        """The directory of the member's weights, fetched if they are not here.

        Raises:
            HandoffMissing: the weights are not in the store.
            HandoffCorrupt: the weights are damaged.
        """
        digest = self.member.weights_digest
        return self.deployment.unsealed.get(digest) or open_directory(self.objects, digest)


@dataclass(frozen=True, kw_only=True)
class NoOptions:
    """For an engine without options."""


@dataclass(frozen=True, kw_only=True)
class EngineKind:
    """One engine, before anything is loaded.

    Attributes:
        open: loads the engine, and blocks meanwhile. Raises InvalidInput or EngineUnavailable, with the reason.
        options: a frozen dataclass of the settings beside the name in a file; see `headrace.engines.option_types`.
        packages: distributions whose version can change an output; the version set's `engine.build` lists them.
        code: of the engine itself: raise it when the same turns get other bytes. `engine.build` has it from 2 on.
        makes: the kinds of member that it opens: an `Engine` for text, a `HearingEngine` for a transcript, a
            `MediaEngine` for the others.
        deterministic: `answer_together` and `make_together` give a turn the same bytes alone, in any batch and in any
            order of it, on the same kind of machine; `make` gives them too.
        check_role: refuses options that do not fit what a role makes (None: text), when its file is loaded.
        check_member: refuses what `open` would refuse of a member, as far as small files here tell, and without the
            seconds that its libraries take; returns a sentence about what is left for `open` to see, or nothing. Gets
            the directory of the member's weights, None if it has none here.
        needs_weights: whether it opens weights from the store, so that its model must be registered.
        computes_here: whether it computes in this process, so that another kind of CPU can change an output.
        can_be_hosted: whether its model lives in the memory of the process that opens it, and `open` needs nothing of
            the deployment: then an engine host may open it once for several runs.
    """

    name: str
    open: Callable[[Opening], LoadedModel]
    options: type = NoOptions
    makes: tuple[MemberKind, ...] = ("text",)
    packages: tuple[str, ...] = ()
    code: int = 1
    deterministic: bool = False
    needs_weights: bool = False
    check_role: Callable[[Any, Picture | Speech | Hearing | None], None] = lambda options, made: None
    check_member: Callable[[Member, Path | None], str] = lambda member, directory: ""
    computes_here: bool = False
    can_be_hosted: bool = False

    @property
    def build(self) -> str:
        """Library versions here, such as `transformers 5.23.0, torch 2.13.0, code 2`; read without importing them."""
        versions = [f"{package} {_version(package)}" for package in self.packages]
        return ", ".join([*versions, *([f"code {self.code}"] if self.code > 1 else [])])

    @property
    def cpu(self) -> str:
        """This machine's kind of CPU; empty: it changes nothing."""
        return cpu_kind() if self.computes_here else ""

    def spec(self, options: Any) -> EngineSpec:
        """The engine's entry in a version set, with this installation's library versions and kind of CPU."""
        given = asdict(options)
        named = {name: value for name, value in given.items() if name in _SPEC_FIELDS}
        others = {name: value for name, value in given.items() if name not in _SPEC_FIELDS}
        return EngineSpec(
            name=self.name,
            build=self.build,
            cpu=self.cpu,
            options=canonical_json(others).decode() if others else "",
            **named,
        )

    def options_of(self, spec: EngineSpec) -> Any:
        """Raises: InvalidInput: this kind does not accept the version set's options."""
        given = json.loads(spec.options) if spec.options else {}
        for one in fields(self.options):
            if one.name in _SPEC_FIELDS:
                value = getattr(spec, one.name)
                given[one.name] = list(value) if isinstance(value, tuple) else value
        return from_mapping(self.options, given, f"engine {self.name!r}")


def engine_kind(name: str) -> EngineKind:
    """Raises: InvalidInput: no engine of this name is installed, several are, or its package offers no valid kind."""
    points = _points()
    if name not in points:
        if not points:
            raise InvalidInput(f"No engine {name!r} is installed, nor any other: set the project up again.")
        raise InvalidInput(
            f"No engine {name!r} is installed; there are {', '.join(sorted(points))}. Install the package that has it."
        )
    return _loaded(name)


def engine_names() -> list[str]:
    """The installed engines; their packages may still fail to import."""
    return sorted(_points())


def open_engine(member: Member, spec: EngineSpec, objects: ObjectStore, deployment: Deployment) -> Engine:
    """A loaded engine for one member of a version set that writes.

    Blocks while weights are fetched and loaded: call it in a thread.

    Args: spec: the member's engine, or its set's (`VersionSet.engine_of`).

    Raises:
        InvalidInput: no engine has this name, it cannot run this member, or its package breaks the contract.
        HandoffMissing: the member's weights are not in the store.
        HandoffCorrupt: the weights are damaged.
        EngineUnavailable: the engine cannot be loaded now.
    """
    return _opened(member, spec, objects, deployment, Engine)


def open_media_engine(member: Member, spec: EngineSpec, objects: ObjectStore, deployment: Deployment) -> MediaEngine:
    """A loaded engine for one member of a version set that paints or speaks.

    Args, raises: as `open_engine`.
    """
    return _opened(member, spec, objects, deployment, MediaEngine)


def open_hearing_engine(
    member: Member, spec: EngineSpec, objects: ObjectStore, deployment: Deployment
) -> HearingEngine:
    """A loaded engine for one member of a version set that hears.

    Args, raises: as `open_engine`.
    """
    return _opened(member, spec, objects, deployment, HearingEngine)


_L = TypeVar("_L", bound=LoadedModel)


def _opened(member: Member, spec: EngineSpec, objects: ObjectStore, deployment: Deployment, wanted: type[_L]) -> _L:
    kind = engine_kind(spec.name)
    if member.kind not in kind.makes:
        raise InvalidInput(
            f"Engine {kind.name!r} makes {' and '.join(kind.makes)}, and {member.role!r} must make {member.kind}. "
            "Name another engine."
        )
    opening = Opening(member=member, spec=spec, options=kind.options_of(spec), deployment=deployment, objects=objects)
    package = _package(_points()[spec.name][0])
    try:
        engine: object = _hosted(kind, opening) or kind.open(opening)
    except (SystemExit, GeneratorExit, asyncio.CancelledError) as error:
        # Passed on, it would end the process, or the task, without a word.
        raise InvalidInput(f"Engine {kind.name!r} ({package}) raised {type(error).__name__} when opened.") from error
    if not isinstance(engine, wanted):
        raise InvalidInput(
            f"Engine {kind.name!r} ({package}) must be opened as {_an(wanted)} for {member.kind}, got {shown(engine)}."
        )
    try:
        num_at_once: object = engine.num_at_once
        # Where the CPU does not count, it is the set's own: on a GPU, or if the set is older than its record.
        cpu = kind.cpu if spec.cpu and engine.computes_on_cpu else spec.cpu
        engine.name, engine.build = kind.name, replace(spec, build=kind.build, cpu=cpu).whole_build
        engine.deterministic = kind.deterministic and not engine.mixes_rows
    except Exception as error:
        raise InvalidInput(
            f"Engine {kind.name!r} ({package}) must have num_at_once, and take name, build and deterministic as "
            f"attributes: {reason_of(error)}."
        ) from error
    if type(num_at_once) is not int or num_at_once < 1:
        raise InvalidInput(
            f"num_at_once of engine {kind.name!r} ({package}) must be a whole number, at least 1, got "
            f"{shown(num_at_once)}."
        )
    return engine


def _hosted(kind: EngineKind, opening: Opening) -> LoadedModel | None:
    """The engine whose model a host holds, where the deployment names one that takes it."""
    if opening.deployment.host is None:
        return None
    # Imported here: it imports what only runs with a host use.
    from headrace.engines.host.client import hosted

    return hosted(kind, opening)


# Members with the same key can share an engine: they differ only in prompts.
EngineKey = tuple[EngineSpec, str, str, str, str, Decoding | None, Picture | None, Speech | None, Hearing | None]


def engine_key(member: Member, spec: EngineSpec) -> EngineKey:
    name, version = member.model_name, member.model_version
    return (
        spec,
        name,
        version,
        member.weights_digest,
        member.weights_uri,
        member.decoding,
        member.picture,
        member.speech,
        member.hearing,
    )


@lru_cache(maxsize=1)
def _points() -> dict[str, list[metadata.EntryPoint]]:
    found: dict[str, list[metadata.EntryPoint]] = {}
    for point in metadata.entry_points(group=GROUP):
        found.setdefault(point.name, []).append(point)
    return found


@cache
def _loaded(name: str) -> EngineKind:
    point, *others = _points()[name]
    if others:
        # The order of sys.path would decide which one answers.
        packages = " and ".join(sorted(f"{_package(one)} ({one.value})" for one in [point, *others]))
        raise InvalidInput(f"Several packages have an engine {name!r}: {packages}. Uninstall all but one.")
    where = f"{point.value} of {_package(point)}"
    try:
        kind = point.load()
    except (Exception, SystemExit) as error:
        raise InvalidInput(f"The engine {name!r} ({where}) cannot be imported: {reason_of(error)}.") from error
    if not isinstance(kind, EngineKind) or kind.name != name:
        raise InvalidInput(f"The entry point {name!r} ({where}) must be an EngineKind of that name, got {kind!r}.")
    check_options(kind.options, f"engine {name!r} ({where})")
    if not isinstance(kind.makes, tuple) or not kind.makes or set(kind.makes) - {*get_args(MemberKind)}:
        raise InvalidInput(
            f"makes of engine {name!r} ({where}) must be a tuple of {', '.join(get_args(MemberKind))}, got "
            f"{kind.makes!r}."
        )
    if not isinstance(kind.packages, tuple) or not all(isinstance(one, str) and one.strip() for one in kind.packages):
        raise InvalidInput(
            f"packages of engine {name!r} ({where}) must be a tuple of distributions' names, got {kind.packages!r}."
        )
    return kind


def _an(wanted: type) -> str:
    return f"an {wanted.__name__}" if wanted.__name__[0] in "AEIOU" else f"a {wanted.__name__}"


def _package(point: metadata.EntryPoint) -> str:
    return f"{point.dist.name} {point.dist.version}" if point.dist else "an unknown package"


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"
