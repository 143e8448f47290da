"""Where a run is: its shares of GPUs and hosts, and their form in a run tag."""

import json
from dataclasses import dataclass


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
            fields = json.loads(text)
            return cls(
                gpus=tuple(GpuShare(node=str(n), device=str(d), milli=int(m)) for n, d, m in fields["gpus"]),
                hosts=tuple(HostShare(node=str(n), cpu_milli=int(c), memory_mib=int(m)) for n, c, m in fields["hosts"]),
            )
        except (TypeError, KeyError, ValueError) as error:
            raise ValueError(f"Not a placement: {text!r}.") from error


NOTHING = Placement()
