"""What a host is asked for: a member of a version set at a place, and all else that decides its model's bytes.

Equal keys are one resident, whoever asks. In the key is what an engine opens and what its libraries compute with. Not
in it: prompts, which only turns hold; the role; where the store is; the builds that the set recorded.
"""

import hashlib
import os
import re
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import cache, cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

from annotated_types import Predicate

from headrace.store.objects import canonical_json
from headrace.store.small_objects import Record
from headrace.version_sets.sets import EngineSpec, Member

CPU = "cpu"
_GPU = r"(?:[0-9]{1,3}|GPU-[0-9a-fA-F-]{1,40})"
_DEVICE = re.compile(rf"cpu|{_GPU}(?:,{_GPU})*")
# Variables by which libraries choose their kernels or split their sums.
_NUMERIC = (
    *("ATEN_", "CUBLAS_", "CUDNN_", "DNNL_", "KMP_", "MKL_", "NPY_", "NVIDIA_TF32_", "OMP_", "ONEDNN_", "OPENBLAS_"),
    *("PYTORCH_", "TORCH_"),
)
# What a process holds before its model: Python, and the libraries of an engine that computes.
_BASE_MIB, _MIB = 400, 2**20


def is_device(name: str) -> bool:
    """Whether a model can be asked for there. A slice of a GPU is none: a host has no account of it."""
    return _DEVICE.fullmatch(name) is not None


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a model is to be. `environment`: variables that change its sums, as the asker has them."""

    # `cpu`, or the asker's GPUs as CUDA_VISIBLE_DEVICES names them: each copy is on one, whichever is better.
    device: Annotated[str, Predicate(is_device)]
    environment: dict[str, str]

    @property
    def each(self) -> "tuple[Place, ...]":
        """Its devices, each by itself."""
        return tuple(replace(self, device=one) for one in dict.fromkeys(self.device.split(",")))


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
        body = {
            **_model_body(self.member, self.engine),
            "place": asdict(self.place),
            "build": self.build,
            "code": self.code,
        }
        return hashlib.sha256(canonical_json(body)).hexdigest()

    @property
    def label(self) -> str:
        """For people: `painter 3 (diffusers)`."""
        return f"{self.member.model_name} {self.member.model_version} ({self.engine.name})"

    @cached_property
    def model_id(self) -> str:
        """As a coordinator knows it."""
        return model_id(self.member, self.engine)


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


def model_id(member: Member, engine: EngineSpec) -> str:
    """Names a member's model wherever it is, and whoever's libraries open it (16 hex characters)."""
    return hashlib.sha256(canonical_json(_model_body(member, engine))).hexdigest()[:16]


def _model_body(member: Member, engine: EngineSpec) -> dict[str, Any]:
    opened, spec = asdict(member), asdict(engine)
    for name in ("role", "system_prompt", "user_template", "engine", "weights_uri"):
        del opened[name]
    for name in ("build", "cpu"):
        del spec[name]
    return {"member": opened, "is_registered": member.is_registered, "engine": spec}


def guessed_mib(weights_bytes: int, engine: EngineSpec) -> int:
    """Weights are held as they are stored, or twice as wide."""
    return _BASE_MIB + weights_bytes * (2 if engine.dtype == "float32" else 1) // _MIB


def numeric_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables that change sums, of a process that would else compute itself."""
    return {name: value for name, value in sorted(environment.items()) if name.startswith(_NUMERIC)}


def environment_at(place: Place, environment: Mapping[str, str]) -> dict[str, str]:
    """`environment` for a process that computes at a place of one device."""
    others = {name: value for name, value in environment.items() if not name.startswith(_NUMERIC)}
    if place.device == CPU:
        return {**others, **place.environment, "CUDA_VISIBLE_DEVICES": ""}
    # An index is NVML's, as a run's is.
    return {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", **others, **place.environment, "CUDA_VISIBLE_DEVICES": place.device}


@cache
def code_of(module: str) -> str:
    """A digest of a module's whole package as it lies on the disk now, and of the interpreter: an edit makes another
    model, so that it reaches the next run and no run before it."""
    package = find_spec(module.partition(".")[0])
    paths: list[Path] = []
    if package and package.submodule_search_locations:
        # A package without an `__init__.py` is found once for each entry of the path that leads to it.
        for root in sorted({os.path.realpath(root) for root in package.submodule_search_locations}):
            for directory, _, names in os.walk(root):
                paths += [Path(directory, name) for name in names if name.endswith(".py")]
    elif package and package.origin:
        paths.append(Path(package.origin))
    # Not by the name of its command: `python` and `python3` are one.
    found = [f"{sys.prefix} {sys.version}"]
    for path in paths:
        with suppress(OSError):  # an editor replaces it now
            stat = path.stat()
            found.append(f"{path} {stat.st_size} {stat.st_mtime_ns}")
    return hashlib.sha256("\n".join(sorted(found)).encode()).hexdigest()
