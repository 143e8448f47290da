"""This machine's CPUs and memory, as far as this process's control groups allow, and what processes hold of it."""

import math
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import psutil

# What several map is in memory once: a file, by its device and inode.
MappedFile = tuple[str, int]

# A file of which less is in memory counts as its process's own.
_FILE_KIB_MIN = 8 * 1024
# From and to, offset in the file, its device and inode; KiB in memory, of them its part, and without a file behind
# them. Fields begin with a capital.
_MAPPING = re.compile(
    rb"^([0-9a-f]+)-([0-9a-f]+) \S+ ([0-9a-f]+) (\S+) (\d+).*\n(?:[A-Z].*\n)*?Rss: +(\d+) kB\n"
    rb"Pss: +(\d+) kB\n(?:[A-Z].*\n)*?Anonymous: +(\d+) kB\n",
    re.MULTILINE,
)
# At its highest, and what it is now, of each kind.
_KINDS = ("RssAnon", "RssFile", "RssShmem")
_RESIDENT = re.compile(rb"^(VmHWM|RssAnon|RssFile|RssShmem):\s+(\d+) kB$", re.MULTILINE)
# Which files memory is of is looked at only when so much of it is new.
_NEWS_SHARE = 0.03
_CGROUPS = Path("/sys/fs/cgroup")
_OWN_CGROUP = Path("/proc/self/cgroup")
# Of both versions: where, a group's limit, what it has, and of its `memory.stat` files' pages that are given back.
_MEMORY_FILES = (
    ("", "memory.max", "memory.current", "inactive_file"),
    ("memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)


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
    for root, limit, _, _ in _MEMORY_FILES:
        texts = [_text(directory / limit) for directory in _groups(cgroups / root, own_cgroup)]
        limits += [int(text) for text in texts if text.isdecimal()]
    return min(limits) // 2**20


def available_mib_here(cgroups: Path = _CGROUPS, own_cgroup: Path = _OWN_CGROUP) -> int:
    """What can still be had without taking from somebody; files' pages, which are given back, count as available."""
    found = [psutil.virtual_memory().available]
    for root, limit, used, inactive_file in _MEMORY_FILES:
        for directory in _groups(cgroups / root, own_cgroup):
            limited, taken = _text(directory / limit), _text(directory / used)
            if limited.isdecimal() and taken.isdecimal():
                fields = dict(line.split(maxsplit=1) for line in _text(directory / "memory.stat").splitlines())
                found.append(int(limited) - int(taken) + int(fields.get(inactive_file, 0)))
    return max(0, min(found)) // 2**20


def proportional_mib(pid: int) -> int:
    """What a process has in memory, of pages that several share its part. Costs milliseconds. 0: it is gone."""
    try:
        return -(-psutil.Process(pid).memory_full_info().pss // 2**20)
    except psutil.Error:
        return 0


@dataclass(frozen=True, kw_only=True)
class Held:
    """What processes have in memory. `files`: large ones that they map, whole, whoever else maps them too. `most_mib`:
    what they had at the highest, where `MemoryLooks` tells it."""

    own_mib: int = 0
    files: Mapping[MappedFile, int] = field(default_factory=dict)
    most_mib: int = 0

    @property
    def mib(self) -> int:
        return self.own_mib + sum(self.files.values())


def held_by(pids: Iterable[int]) -> Held:
    """What some processes hold together. Costs milliseconds.

    Of a file only its pages in these processes' maps count, and those of small files for each process whole: other
    processes' maps change no figure. Where the kernel does not tell, all is own, shared pages divided.
    """
    own_kib, files = 0, Counter[MappedFile]()
    for pid in pids:
        for file, kib in _mapped_kib(pid):
            if file is None or kib < _FILE_KIB_MIN:
                own_kib += kib
            else:
                # Two that were started together may map different pages: so much is there at least.
                files[file] = max(files[file], kib)
    return Held(own_mib=-(-own_kib // 1024), files={file: -(-kib // 1024) for file, kib in files.items()})


def _mapped_kib(pid: int) -> Iterable[tuple[MappedFile | None, int]]:
    """By file; None: memory without one, what is shared of it divided."""
    found, extents = Counter[MappedFile | None](), defaultdict[MappedFile, list[tuple[int, int]]](list)
    try:
        mappings = _MAPPING.findall(Path(f"/proc/{pid}/smaps").read_bytes())
    except OSError:
        mappings = []
    for start, end, offset, device, inode, resident, proportional, copied in mappings:
        if inode == b"0":
            found[None] += int(proportional)
        else:
            # Pages of a private map that were written to are copies.
            found[None] += int(copied)
            file, begins = (device.decode(), int(inode)), int(offset, 16)
            found[file] += int(resident) - int(copied)
            extents[file].append((begins, begins + int(end, 16) - int(start, 16)))
    for file, mapped in extents.items():
        # A page that is mapped twice is in memory once.
        found[file] = min(found[file], _covered(mapped) // 1024)
    return found.items() if mappings else [(None, 1024 * proportional_mib(pid))]


def _covered(extents: Iterable[tuple[int, int]]) -> int:
    """By extents that may overlap."""
    covered, reached = 0, 0
    for begins, ends in sorted(extents):
        covered += max(0, ends - max(begins, reached))
        reached = max(reached, ends)
    return covered


class MemoryLooks:
    """Looks at what some processes hold together, one after the other, between which no moment is missed.

    The most since the last `begin` is the kernel's own figure (`VmHWM`). Where it cannot be put back, it counts once it
    rises. Of several processes the highest moments are added up.
    """

    def __init__(self) -> None:
        self._held, self._seen_kib = Held(), Counter[str]()
        self._most_mib = 0
        # Of processes, the highest moment that does not count.
        self._before_kib: dict[int, int] = {}

    def at(self, pids: Iterable[int]) -> Held:
        """Cheap, but for milliseconds when there is news."""
        pids, seen, most_kib = list(pids), Counter[str](), 0
        for pid in pids:
            now = _resident_kib(pid)
            peak_kib = now.pop("VmHWM", 0)
            seen.update(now)
            most_kib += peak_kib if peak_kib > self._before_kib.get(pid, 0) else now.total()
        if any(abs(seen[kind] - self._seen_kib[kind]) > self._seen_kib.total() * _NEWS_SHARE for kind in _KINDS):
            self._seen_kib, self._held = seen, held_by(pids)
        over_mib = -(-(most_kib - self._seen_kib.total()) // 1024)
        self._most_mib = max(self._most_mib, self._held.mib + max(0, over_mib))
        return replace(self._held, most_mib=self._most_mib)

    def begin(self, pids: Iterable[int]) -> None:
        """What they held until now counts no more. Call it while they do nothing: a moment that falls between what was
        read of them last and this is lost."""
        self._most_mib, self._before_kib = 0, {}
        for pid in pids:
            with suppress(OSError):
                Path(f"/proc/{pid}/clear_refs").write_text("5")
            self._before_kib[pid] = _resident_kib(pid)["VmHWM"]


def _resident_kib(pid: int) -> Counter[str]:
    """By the kernel's names; a kernel that knows no kinds tells one sum. Nothing: it is gone."""
    try:
        fields = _RESIDENT.findall(Path(f"/proc/{pid}/status").read_bytes())
    except OSError:
        fields = []
    if found := Counter({name.decode(): int(kib) for name, kib in fields}):
        return found
    try:
        return Counter(RssAnon=psutil.Process(pid).memory_info().rss // 1024)
    except psutil.Error:
        return Counter()


def is_stopped(pid: int) -> bool:
    """Whether a process does nothing until somebody lets it go on (`kill -CONT`). Cheap; False: it is gone."""
    return _text(Path(f"/proc/{pid}/stat")).rpartition(")")[2].split()[:1] == ["T"]


def descendants(pid: int) -> list[int]:
    """The processes that a process has started, and theirs. Cheap; empty where the kernel does not tell."""
    try:
        threads = os.listdir(f"/proc/{pid}/task")  # noqa: PTH208 (a glob ends in an error if the process ends meanwhile)
    except OSError:
        return []
    found: list[int] = []
    for thread in threads:
        for child in map(int, _text(Path(f"/proc/{pid}/task/{thread}/children")).split()):
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
