"""A cluster's resource names for GPUs, and amounts in Kubernetes' form. Pure."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from headrace.errors import InvalidInput
from headrace.placement.demand import WHOLE

# A request under any of these names takes a GPU, in any cluster.
_ANY_GPU = re.compile(r"(nvidia\.com/(gpu|mig-)|amd\.com/gpu|gpu\.intel\.com/)")
_QUANTITY = re.compile(r"([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d{1,2})?)(|n|u|m|k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei)")
_DECIMAL = {"": 0, "n": -9, "u": -6, "m": -3, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
_BINARY = {"Ki": 1, "Mi": 2, "Gi": 3, "Ti": 4, "Pi": 5, "Ei": 6}
_MIB = 1 << 20


@dataclass(frozen=True, kw_only=True)
class GpuResources:
    """The names under which a cluster offers GPUs.

    `shared` is a resource whose unit is a part of a GPU: a MIG slice (`nvidia.com/mig-1g.10gb`) or a time-slice
    (`nvidia.com/gpu.shared`; `nvidia.com/gpu` itself if the device plugin does not rename it). `shared_milli` is one
    unit's thousandths of a GPU. Without it, no run can have a fraction.

    Raises:
        InvalidInput: a unit without its size, or a size without its unit.
    """

    whole: str = "nvidia.com/gpu"
    shared: str = ""
    shared_milli: int = 0

    def __post_init__(self) -> None:
        if bool(self.shared) != bool(self.shared_milli) or not 0 <= self.shared_milli <= WHOLE:
            raise InvalidInput(
                f"shared_gpu_resource={self.shared!r} with shared_gpu_milli={self.shared_milli}: set both, the second "
                f"to the thousandths (1 to {WHOLE}) of a GPU that one unit is, or neither."
            )
        for name in (self.whole, *([self.shared] if self.shared else [])):
            if "/" not in name:
                raise InvalidInput(
                    f"gpu_resource and shared_gpu_resource are names such as nvidia.com/gpu, got {name!r}."
                )

    def is_gpu(self, resource: str) -> bool:
        return resource in (self.whole, self.shared) or bool(_ANY_GPU.match(resource))

    def shared_device(self, slot: int) -> str:
        """An inventory's name for a shared unit; whole GPUs are "0", "1", and so on."""
        return f"{self.shared}#{slot}"

    def resource_of(self, device: str) -> str | None:
        """The resource that a pod requests for such a device; None: it is not a slot but a real device's name."""
        if device.isdecimal():
            return self.whole
        return self.shared if self.shared and device.startswith(f"{self.shared}#") else None


# NVIDIA's device plugin's default names; nothing is shared.
NVIDIA = GpuResources()


def amount(quantity: object) -> Decimal:
    """A Kubernetes quantity ("500m", "64Gi", 2) in its base unit: CPUs, bytes, pieces.

    Raises:
        InvalidInput: it is not a quantity.
    """
    match = _QUANTITY.fullmatch(str(quantity))
    if match is None or isinstance(quantity, bool):
        raise InvalidInput(f"{quantity!r} is not a Kubernetes quantity such as 2, 500m or 64Gi.")
    number, suffix = Decimal(match[1]), match[2]
    return number * 1024 ** _BINARY[suffix] if suffix in _BINARY else number.scaleb(_DECIMAL[suffix])


def milli(quantity: object) -> int:
    return int(amount(quantity) * 1000)


def mib(quantity: object) -> int:
    return int(amount(quantity) / _MIB)


def effective_request(pod_spec: Mapping[str, Any], resource: str) -> Decimal:
    """What a pod takes of its node: all containers together, or the largest init container; a limit is a request."""
    own = sum((_request(container, resource) for container in pod_spec.get("containers") or []), Decimal(0))
    first = [_request(container, resource) for container in pod_spec.get("initContainers") or []]
    return max([own, *first])


def _request(container: Mapping[str, Any], resource: str) -> Decimal:
    resources = container.get("resources") or {}
    for kind in ("requests", "limits"):
        if resource in (resources.get(kind) or {}):
            return amount(resources[kind][resource])
    return Decimal(0)


def gpus_asked(config: object, gpus: GpuResources) -> dict[str, str]:
    """GPU resources that any part of a config requests, at any depth: the last amount of each, as written."""
    return dict(_gpus_in(config, gpus))


def _gpus_in(part: object, gpus: GpuResources) -> Iterator[tuple[str, str]]:
    if isinstance(part, Mapping):
        for key, value in part.items():
            if key in ("limits", "requests") and isinstance(value, Mapping):
                yield from ((name, str(count)) for name, count in value.items() if gpus.is_gpu(str(name)) and count)
            else:
                yield from _gpus_in(value, gpus)
    elif isinstance(part, list | tuple):
        for item in part:
            yield from _gpus_in(item, gpus)
