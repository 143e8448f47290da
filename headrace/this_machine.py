"""This machine's CPUs and memory, as far as this process's control groups allow, and what processes hold of it."""

import math
import os
from pathlib import Path

import psutil

_CGROUPS = Path("/sys/fs/cgroup")
_OWN_CGROUP = Path("/proc/self/cgroup")


def cpu_milli_here(cgroups: Path = _CGROUPS, own_cgroup: Path = _OWN_CGROUP) -> int:
    """Thousandths of CPUs."""
    limits = [1000 * len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1000 * (os.cpu_count() or 1)]
    for directory in _groups(cgroups, own_cgroup):
        match _text(directory / "cpu.max").split():
            case [quota, period] if quota.isdecimal() and period.isdecimal() and int(period):
                limits.append(math.floor(1000 * int(quota) / int(period)))
    for directory in _groups(cgroups / "cpu", own_cgroup):
        quota, period = _text(directory / "cpu.cfs_quota_us"), _text(directory / "cpu.cfs_period_us")
        if quota.isdecimal() and period.isdecimal() and int(period):
            limits.append(math.floor(1000 * int(quota) / int(period)))
    return max(1, min(limits))


def memory_mib_here(cgroups: Path = _CGROUPS, own_cgroup: Path = _OWN_CGROUP) -> int:
    limits = [psutil.virtual_memory().total]
    files = [directory / "memory.max" for directory in _groups(cgroups, own_cgroup)]
    files += [directory / "memory.limit_in_bytes" for directory in _groups(cgroups / "memory", own_cgroup)]
    limits += [int(text) for text in map(_text, files) if text.isdecimal()]
    return min(limits) // 2**20


def available_mib_here(cgroups: Path = _CGROUPS, own_cgroup: Path = _OWN_CGROUP) -> int:
    """What can still be had without taking from somebody; files' pages, which are given back, count as available."""
    found = [psutil.virtual_memory().available]
    for directory in _groups(cgroups, own_cgroup):
        limit, used = _text(directory / "memory.max"), _text(directory / "memory.current")
        if limit.isdecimal() and used.isdecimal():
            fields = dict(line.split(maxsplit=1) for line in _text(directory / "memory.stat").splitlines())
            found.append(int(limit) - int(used) + int(fields.get("inactive_file", 0)))
    return max(0, min(found)) // 2**20


def resident_mib(pid: int) -> int:
    """What a process has in memory, pages that it shares counted whole. Cheap. 0: it is gone."""
    try:
        return psutil.Process(pid).memory_info().rss // 2**20
    except psutil.Error:
        return 0


def proportional_mib(pid: int) -> int:
    """What a process has in memory, of pages that several share its part. Costs milliseconds. 0: it is gone."""
    try:
        return -(-psutil.Process(pid).memory_full_info().pss // 2**20)
    except psutil.Error:
        return 0


def is_stopped(pid: int) -> bool:
    """Whether a process does nothing until somebody lets it go on (`kill -CONT`). Cheap; False: it is gone."""
    return _text(Path(f"/proc/{pid}/stat")).rpartition(")")[2].split()[:1] == ["T"]


def descendants(pid: int) -> list[int]:
    """The processes that a process has started, and theirs. Cheap; empty where the kernel does not tell."""
    found: list[int] = []
    for file in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in map(int, _text(file).split()):
            found += [child, *descendants(child)]
    return found


def _groups(cgroups: Path, own_cgroup: Path) -> list[Path]:
    """This process's control group and its ancestors, of both versions."""
    found = {cgroups}
    for line in _text(own_cgroup).splitlines():
        path = line.split(":", 2)[-1].strip("/")
        while path:
            found.add(cgroups / path)
            path = path.rpartition("/")[0]
    return sorted(found)


def _text(file: Path) -> str:
    """The file's text; empty if it cannot be read, so that it limits nothing."""
    try:
        return file.read_text().strip()
    except OSError:
        return ""
