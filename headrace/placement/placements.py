"""Where a run is: its shares of GPUs and hosts, and their form in a run tag."""

import json
from dataclasses import dataclass

from headrace.store.small_objects import Record


@dataclass(frozen=True, kw_only=True, order=True)
class GpuShare:
    node: str
    device: str
    milli: int


@dataclass(frozen=True, kw_only=True, order=True)
class HostShare:
    node: str
    cpu_milli: int
    memory_mib: int


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Everything that one run holds; all of it or nothing."""

    gpus: tuple[GpuShare, ...] = ()
    hosts: tuple[HostShare, ...] = ()

    @property
    def nodes(self) -> tuple[str, ...]:
        return tuple(sorted({share.node for share in (*self.gpus, *self.hosts)}))

    def devices_on(self, node: str) -> tuple[str, ...]:
        """The value for CUDA_VISIBLE_DEVICES on that node."""
        return tuple(share.device for share in self.gpus if share.node == node)

    def to_json(self) -> str:
        return json.dumps(
            {
                "gpus": [[share.node, share.device, share.milli] for share in self.gpus],
                "hosts": [[share.node, share.cpu_milli, share.memory_mib] for share in self.hosts],
            },
            separators=(",", ":"),
        )

    @classmethod
    def from_json(cls, text: str) -> "Placement":
        """Raises: ValueError: the text is not a placement."""
        try:
            stated = _RECORD.checked(text)
        except ValueError as error:
            raise ValueError(f"Not a placement: {error}, in {text[:200]!r}.") from error
        return cls(
            gpus=tuple(GpuShare(node=node, device=device, milli=milli) for node, device, milli in stated.gpus),
            hosts=tuple(HostShare(node=node, cpu_milli=cpu, memory_mib=mib) for node, cpu, mib in stated.hosts),
        )


@dataclass(frozen=True, kw_only=True)
class _Tag:
    gpus: tuple[tuple[str, str, int], ...]
    hosts: tuple[tuple[str, int, int], ...]


_RECORD = Record("Placement", _Tag)
NOTHING = Placement()
