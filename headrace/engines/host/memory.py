"""How much memory there is for models, and how much of it a process holds, as Linux counts it."""

import os
from pathlib import Path

_MIB = 2**20
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_PROC = Path("/proc")
# The limit of the container, in its two spellings; of none, a word or a number beyond all memory.
_CGROUP = Path("/sys/fs/cgroup")
_LIMITS = (_CGROUP / "memory.max", _CGROUP / "memory/memory.limit_in_bytes")


def machine_mib() -> int:
    """The machine's memory, or its container's if that is less."""
    limits = [os.sysconf("SC_PHYS_PAGES") * _PAGE_BYTES]
    limits += [limit for file in _LIMITS if (limit := _number(file)) is not None]
    return min(limits) // _MIB


def resident_mib(pid: int) -> int:
    """What a process has in memory, pages that it shares counted whole. Cheap. 0: it is gone."""
    try:
        return int((_PROC / str(pid) / "statm").read_text().split()[1]) * _PAGE_BYTES // _MIB
    except (OSError, IndexError):
        return 0


def proportional_mib(pid: int) -> int:
    """What a process has in memory, of pages that several share its part. Costs milliseconds. 0: it is gone."""
    try:
        for line in (_PROC / str(pid) / "smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return -(-int(line.split()[1]) // 1024)
    except (OSError, ValueError):
        pass
    return 0


def available_mib() -> int:
    """What this machine, or its container, can still give without taking from somebody."""
    found = [_of_meminfo("MemAvailable")]
    limit, used = (_number(_CGROUP / name) for name in ("memory.max", "memory.current"))
    if limit is not None and used is not None:
        found.append((limit - used + _cached_bytes()) // _MIB)
    return min(found)


def _of_meminfo(name: str) -> int:
    for line in (_PROC / "meminfo").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) // 1024
    return machine_mib()


def _cached_bytes() -> int:
    """Files' pages, which a container gives back when it needs them."""
    try:
        lines = (_CGROUP / "memory.stat").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) for line in lines if line.startswith("inactive_file "))


def _number(file: Path) -> int | None:
    try:
        text = file.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None
