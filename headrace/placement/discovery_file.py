"""Machines described by people: a YAML file of nodes, or the short text that simulates one machine."""

import re
from collections import Counter
from pathlib import Path
from typing import Any

from headrace.errors import InvalidInput
from headrace.placement.gpu_models import short_model
from headrace.placement.inventory import Gpu, Inventory, Node
from headrace.user_files.yaml_file import read_yaml

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
    try:
        content = read_yaml(path, "Fleet file").content
    except InvalidInput as error:
        raise InvalidFleet(str(error)) from error
    top = _fields(content, f"Fleet file {path}", {"nodes"})
    listed = top.get("nodes")
    if not isinstance(listed, list) or not listed:
        raise InvalidFleet(f"Fleet file {path}: nodes must be a list of at least one node, not {_shown(listed)}.")
    nodes = tuple(_node(fields, f"Fleet file {path}: node {number}") for number, fields in enumerate(listed, 1))
    _refuse_twice([node.name for node in nodes], f"Fleet file {path}: name", "nodes")
    return Inventory(nodes=nodes)


def _node(content: object, where: str) -> Node:
    fields = _fields(content, where, {"name", "gpus", "cpus", "memory_mib"})
    name = fields.get("name")
    if not isinstance(name, str) or not name:
        raise InvalidFleet(f"{where}: name must be a text, not {_shown(name)}.")
    where = f"{where} ({name})"
    listed = fields.get("gpus", [])
    if isinstance(listed, str):
        gpus = _gpus_from_text(listed, f"{where}: gpus")
    elif isinstance(listed, list):
        gpus = tuple(_gpu(gpu, f"{where}: GPU {number}") for number, gpu in enumerate(listed, 1))
        _refuse_twice([gpu.device for gpu in gpus], f"{where}: device", "GPUs")
    else:
        raise InvalidFleet(f'{where}: gpus must be a text as "8xH100:81559" or a list, not {_shown(listed)}.')
    return Node(
        name=name,
        gpus=gpus,
        cpu_milli=int(1000 * _amount(fields.get("cpus", 0), f"{where}: cpus", (int, float))),
        memory_mib=int(_amount(fields.get("memory_mib", 0), f"{where}: memory_mib", (int,))),
    )


def _gpu(content: object, where: str) -> Gpu:
    fields = _fields(content, where, {"device", "model", "memory_mib", "healthy"})
    device, model, healthy = fields.get("device"), fields.get("model"), fields.get("healthy", True)
    if type(device) is int:
        device = str(device)
    if not isinstance(device, str) or not _DEVICE.fullmatch(device):
        raise InvalidFleet(f"{where}: device must be what CUDA_VISIBLE_DEVICES takes for one, not {_shown(device)}.")
    short = short_model(model) if isinstance(model, str) else None
    if short is None:
        raise InvalidFleet(f"{where}: model must be the name of a GPU model, not {_shown(model)}.")
    if not isinstance(healthy, bool):
        raise InvalidFleet(f"{where}: healthy must be true or false, not {_shown(healthy)}.")
    memory_mib = int(_amount(fields.get("memory_mib"), f"{where}: memory_mib", (int,)))
    return Gpu(device=device, model=short, memory_mib=memory_mib, healthy=healthy)


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


def _fields(content: object, where: str, known: set[str]) -> dict[str, Any]:
    if not isinstance(content, dict):
        raise InvalidFleet(f"{where} must have the fields {', '.join(sorted(known))}, but is {_shown(content)}.")
    unknown = sorted(str(name) for name in content if name not in known)
    if unknown:
        raise InvalidFleet(f"{where}: unknown fields {', '.join(unknown)}; known are {', '.join(sorted(known))}.")
    return content


def _amount(number: object, where: str, types: tuple[type, ...]) -> float:
    if type(number) not in types or not 0 <= number <= _AMOUNT_MAX:  # pyright: ignore[reportOperatorIssue]
        kind = "number" if float in types else "whole number"
        raise InvalidFleet(f"{where} must be a {kind} from 0 to {_AMOUNT_MAX:,}, not {_shown(number)}.")
    return number  # pyright: ignore[reportReturnType]


def _refuse_twice(names: list[str], where: str, of_what: str) -> None:
    name, count = max(Counter(names).items(), key=lambda item: item[1], default=("", 0))
    if count > 1:
        raise InvalidFleet(f"{where} {name} is used by {count} {of_what}; it must be unique.")


def _shown(content: object) -> str:
    text = repr(content)
    return text if len(text) <= 80 else f"{text[:80]}…"
