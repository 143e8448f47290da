"""How much memory there is for models, and how much of it a process holds, as Linux counts it."""

import os
from pathlib import Path

_MIB = 2**20
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_PROC = Path("/proc")
# The limit of the container, in its two spellings; of none, a word or a number beyond all memory.
_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))


def machine_mib() -> int:
    """The machine's memory, or its container's if that is less."""
    limits = [os.sysconf("SC_PHYS_PAGES") * _PAGE_BYTES]
    for file in _LIMITS:
        try:
            text = file.read_text().strip()
        except OSError:
            continue
        if text.isdigit():
            limits.append(int(text))
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
