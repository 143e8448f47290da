"""Where the tensors of a safetensors file lie, by its header alone; nothing of torch or safetensors is imported.

The format: eight bytes (length of the header, little-endian), the header (JSON), the tensors' bytes without holes.
"""

import json
import os
import struct
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

SUFFIX = ".safetensors"
# The format's own limit, so that a foreign file cannot make a reader allocate at will.
_HEADER_BYTES_MAX = 100_000_000


@dataclass(frozen=True, kw_only=True)
class HeldTensor:
    """One tensor of a file. `dtype` as the format spells it: `F32`, `BF16`."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int
    num_bytes: int


def tensors_of(path: Path) -> list[HeldTensor]:
    """The file's tensors with bytes, in the file's order.

    A file that the format does not allow has none: it is still a file, and is kept as one.
    """
    with path.open("rb", buffering=0) as file:
        return tensors_in(lambda offset, length: os.pread(file.fileno(), length, offset), path.stat().st_size)


def tensors_in(read: Callable[[int, int], bytes], num_bytes: int) -> list[HeldTensor]:
    """The same of a file of `num_bytes`, of which `read` gives bytes by offset and length."""
    try:
        (header_bytes,) = struct.unpack("<Q", read(0, min(8, num_bytes)))
        if header_bytes > min(_HEADER_BYTES_MAX, num_bytes - 8):
            return []
        header: Any = json.loads(read(8, header_bytes))
        start = 8 + header_bytes
        found = [_held(name, fields, start) for name, fields in header.items() if name != "__metadata__"]
    except (struct.error, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return []
    found = sorted((one for one in found if one.num_bytes), key=lambda one: one.offset)
    ends = [*(one.offset for one in found), num_bytes]
    is_whole = all(one.offset + one.num_bytes == following for one, following in zip(found, ends[1:], strict=True))
    in_order = all(one.offset < other.offset for one, other in pairwise(found))
    return found if found and found[0].offset == start and is_whole and in_order else []


def _held(name: str, fields: Any, start: int) -> HeldTensor:
    begin, end = fields["data_offsets"]
    return HeldTensor(
        name=name,
        dtype=str(fields["dtype"]),
        shape=tuple(int(length) for length in fields["shape"]),
        offset=start + int(begin),
        num_bytes=int(end) - int(begin),
    )
