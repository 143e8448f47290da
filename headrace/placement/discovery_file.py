"""Machines described by people: a YAML file of nodes, or the short text that simulates one machine."""

import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from annotated_types import Ge, Le, MinLen

from headrace.errors import InvalidInput
from headrace.placement.gpu_models import short_model
from headrace.placement.inventory import Gpu, Inventory, Node
from headrace.user_files.shapes import Before, fault, from_file

_GROUP = re.compile(r"\s*([0-9]{1,5})\s*x\s*([^:,]+):\s*([0-9]{1,9})\s*")
_DEVICE = re.compile(r"[\w:/.-]{1,100}")
_NUM_GPUS_MAX = 10_000
_AMOUNT_MAX = 1_000_000_000


class InvalidFleet(InvalidInput):
    """A description of machines that cannot be read."""


def parse_simulated(text: str, *, node: str, cpu_milli: int, memory_mib: int) -> Node:
    """A node as `HEADRACE_GPUS` describes it: "4xH100:81559" or "2xA100:40960,4xL4:23034", memory of each in MiB.

    Devices are numbered from 0, in the order of the text.

    Raises:
        InvalidFleet: the text has another form.
    """
    return Node(
        name=node, gpus=_gpus_from_text(text, "The simulated fleet"), cpu_milli=cpu_milli, memory_mib=memory_mib
    )


def read_fleet_file(path: Path) -> Inventory:
    """The nodes that a YAML file lists.

    ```yaml
    nodes:
      - {name: node-a, gpus: "8xH100:81559", cpus: 96, memory_mib: 1000000}
      - name: node-b
        gpus:
          - {device: GPU-5f2c, model: A100, memory_mib: 40960, healthy: false}
    ```

    Raises:
        InvalidFleet: the file cannot be read, or does not describe a fleet.
    """
    return Inventory(nodes=tuple(one.node for one in from_file(_Fleet, path, "Fleet file", refusal=InvalidFleet).nodes))


_Amount = Annotated[int, Ge(0), Le(_AMOUNT_MAX)]


@dataclass(frozen=True, kw_only=True)
class _Gpu:
    device: Annotated[str, Before(lambda device: str(device) if type(device) is int else device, accepts=int)]
    model: str
    memory_mib: _Amount
    healthy: bool = True

    def __post_init__(self) -> None:
        if not _DEVICE.fullmatch(self.device):
            raise InvalidFleet(f"device must be what CUDA_VISIBLE_DEVICES takes for one, got {_shown(self.device)}.")
        if short_model(self.model) is None:
            raise InvalidFleet(f"model must be the name of a GPU model, got {_shown(self.model)}.")

    @property
    def gpu(self) -> Gpu:
        model = short_model(self.model) or ""
        return Gpu(device=self.device, model=model, memory_mib=self.memory_mib, healthy=self.healthy)


def _listed(content: Any) -> Any:
    """The entries that a text such as "8xH100:81559" stands for."""
    if isinstance(content, tuple):
        return content
    if not isinstance(content, str):
        raise fault((), wish='be a text as "8xH100:81559" or a list')
    try:
        gpus = _gpus_from_text(content, "")
    except InvalidFleet as error:
        raise fault((), tail=str(error)) from error
    return tuple({"device": gpu.device, "model": gpu.model, "memory_mib": gpu.memory_mib} for gpu in gpus)


@dataclass(frozen=True, kw_only=True)
class _Node:
    name: Annotated[str, MinLen(1)]
    gpus: Annotated[tuple[_Gpu, ...], Before(_listed, accepts=str)] = ()
    cpus: Annotated[float, Ge(0), Le(_AMOUNT_MAX)] = 0
    memory_mib: _Amount = 0

    def __post_init__(self) -> None:
        _refuse_twice("gpus: the device", [gpu.device for gpu in self.gpus])

    @property
    def node(self) -> Node:
        gpus = tuple(gpu.gpu for gpu in self.gpus)
        return Node(name=self.name, gpus=gpus, cpu_milli=int(1000 * self.cpus), memory_mib=self.memory_mib)


@dataclass(frozen=True, kw_only=True)
class _Fleet:
    nodes: tuple[_Node, ...]

    def __post_init__(self) -> None:
        if not self.nodes:
            raise InvalidFleet("nodes must be a list of at least one node, got [].")
        _refuse_twice("nodes: the name", [node.name for node in self.nodes])


def _gpus_from_text(text: str, where: str) -> tuple[Gpu, ...]:
    kinds: list[tuple[str, int]] = []
    for group in text.split(","):
        match = _GROUP.fullmatch(group)
        model = short_model(match[2]) if match else None
        if match is None or model is None or len(kinds) + int(match[1]) > _NUM_GPUS_MAX:
            raise InvalidFleet(
                f'{where} is {_shown(text)}, but must be as "4xH100:81559" or "2xA100:40960,4xL4:23034": how many, '
                f"of which model, with how many MiB each; at most {_NUM_GPUS_MAX:,} in all."
            )
        kinds += [(model, int(match[3]))] * int(match[1])
    return tuple(
        Gpu(device=str(index), model=model, memory_mib=memory_mib) for index, (model, memory_mib) in enumerate(kinds)
    )


def _refuse_twice(what: str, names: list[str]) -> None:
    name, count = max(Counter(names).items(), key=lambda item: item[1], default=("", 0))
    if count > 1:
        raise InvalidFleet(f"{what} {name} stands {count} times; it must be unique.")


def _shown(content: object) -> str:
    text = repr(content)
    return text if len(text) <= 80 else f"{text[:80]}…"
