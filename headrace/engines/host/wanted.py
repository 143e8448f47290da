"""What a host is asked for: a member of a version set at a place, and all else that decides its model's bytes.

Equal keys are one resident, whoever asks. In the key is what an engine opens and what its libraries compute with. Not
in it: prompts, which only turns hold; the role; where the store is; the builds that the set recorded.
"""

import hashlib
import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cache, cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from headrace.store.objects import canonical_json
from headrace.store.small_objects import Record
from headrace.version_sets.sets import EngineSpec, Member

CPU = "cpu"
# Variables by which libraries choose their kernels or split their sums.
_NUMERIC = ("ATEN_", "DNNL_", "KMP_", "MKL_", "NPY_", "OMP_", "ONEDNN_", "OPENBLAS_", "PYTORCH_", "TORCH_")
# What a process holds before its model: Python, and the libraries of an engine that computes.
_BASE_MIB, _MIB = 400, 2**20


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a model is to be. `environment`: variables that change its sums, as the asker has them."""

    device: Literal["cpu"]
    environment: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class StoreAddress:
    """Where the weights are, for a process that opens the store anew. `cache`: this node's copies; empty: none."""

    url: str
    cache: str = ""
    cache_bytes: int | None = None


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """`build`: library versions that the asker sees. `code`: a digest of the engine's code, as files. `guess_mib`: the
    model's size, until it was measured."""

    member: Member
    engine: EngineSpec
    place: Place
    store: StoreAddress
    build: str
    code: str
    guess_mib: int

    @cached_property
    def key(self) -> str:
        """sha256 (64 hex characters)."""
        member, engine = asdict(self.member), asdict(self.engine)
        for name in ("role", "system_prompt", "user_template", "engine", "weights_uri"):
            del member[name]
        for name in ("build", "cpu"):
            del engine[name]
        body = {
            "member": member,
            "is_registered": self.member.is_registered,
            "engine": engine,
            "place": asdict(self.place),
            "build": self.build,
            "code": self.code,
        }
        return hashlib.sha256(canonical_json(body)).hexdigest()

    @property
    def label(self) -> str:
        """For people: `painter 3 (diffusers)`."""
        return f"{self.member.model_name} {self.member.model_version} ({self.engine.name})"


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What an opened engine says of itself, as `LoadedModel` has it."""

    num_at_once: int
    computes_on_cpu: bool
    mixes_rows: bool
    deterministic: bool
    can_sleep: bool = False


WANTED = Record("Wanted model", Wanted)
FACTS = Record("Facts of an engine", Facts)


def guessed_mib(weights_bytes: int, engine: EngineSpec) -> int:
    """Weights are held as they are stored, or twice as wide."""
    return _BASE_MIB + weights_bytes * (2 if engine.dtype == "float32" else 1) // _MIB


def numeric_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables that change sums, of a process that would else compute itself."""
    return {name: value for name, value in sorted(environment.items()) if name.startswith(_NUMERIC)}


def environment_at(place: Place, environment: Mapping[str, str]) -> dict[str, str]:
    """`environment` for a process that computes at a place."""
    others = {name: value for name, value in environment.items() if not name.startswith(_NUMERIC)}
    return {**others, **place.environment, "CUDA_VISIBLE_DEVICES": ""}


@cache
def code_of(module: str) -> str:
    """A digest of a module's whole package as it lies on the disk now, and of the interpreter: an edit makes another
    model, so that it reaches the next run and no run before it."""
    package = find_spec(module.partition(".")[0])
    paths: list[Path] = []
    if package and package.submodule_search_locations:
        for root in package.submodule_search_locations:
            for directory, _, names in os.walk(root):
                paths += [Path(directory, name) for name in names if name.endswith(".py")]
    elif package and package.origin:
        paths.append(Path(package.origin))
    found = [f"{sys.executable} {sys.version}"]
    for path in paths:
        with suppress(OSError):  # an editor replaces it now
            stat = path.stat()
            found.append(f"{path} {stat.st_size} {stat.st_mtime_ns}")
    return hashlib.sha256("\n".join(sorted(found)).encode()).hexdigest()
