"""What a process holds for itself, and the files that it maps: measured on processes of a few lines."""

import mmap
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from headrace.this_machine import Held, MappedFile, MemoryLooks, descendants, held_by
from tests.waiting import eventually

pytestmark = pytest.mark.process

_MAPS = """
import mmap, sys
names, own = sys.argv[1:-1], b"x" * int(sys.argv[-1])
maps = []
for name in names:
    with open(name, "r+b") as file:
        one = mmap.mmap(file.fileno(), 0, flags=mmap.MAP_PRIVATE)
    maps.append(one)
    for at in range(0, len(one), 4096):
        one[at]
        if name.endswith("written"):
            one[at] = 1
print("there", flush=True)
sys.stdin.read()
"""
MIB = 2**20


@contextmanager
def process(*files: Path, own_mib: int = 0) -> Iterator[int]:
    """One that has read all of some files through maps, and holds so much of its own; its number."""
    command = [sys.executable, "-c", _MAPS, *map(str, files), str(own_mib * MIB)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout
        assert child.stdout.readline() == b"there\n"
        yield child.pid
        child.kill()


_DOES = """
import mmap, sys
def map_of(name):
    with open(name, "rb") as file:
        one = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
    assert sum(one[at] for at in range(0, len(one), 4096))
    return one
for line in sys.stdin:
    exec(line)
    print("done", flush=True)
"""


@dataclass(frozen=True, kw_only=True)
class Told:
    """A process that does what it is told, in Python; it knows `map_of`, which reads all of a file through a map."""

    child: "subprocess.Popen[bytes]"

    @property
    def pid(self) -> int:
        return self.child.pid

    def do(self, line: str) -> None:
        assert self.child.stdin
        assert self.child.stdout
        self.child.stdin.write(line.encode() + b"\n")
        self.child.stdin.flush()
        assert self.child.stdout.readline() == b"done\n"


@contextmanager
def told() -> Iterator[Told]:
    with subprocess.Popen([sys.executable, "-c", _DOES], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        process = Told(child=child)
        # It has begun.
        process.do("pass")
        yield process
        child.kill()


def make_file(path: Path, mib: int) -> Path:
    path.write_bytes(b"x" * (mib * MIB))
    return path


def files_of(held: Held, *files: Path) -> dict[str, int]:
    """By name; libraries of the interpreter left out."""
    inodes = {file.stat().st_ino: file.name for file in files}
    return {inodes[inode]: mib for (_, inode), mib in held.files.items() if inode in inodes}


@pytest.fixture
def bare() -> Iterator[int]:
    """MiB of a process that maps nothing."""
    with process() as pid:
        yield held_by([pid]).mib


def test_a_mapped_file_is_told_apart_from_a_processs_own_memory(tmp_path: Path, bare: int) -> None:
    file = make_file(tmp_path / "weights", 40)
    with process(file, own_mib=30) as pid:
        held = held_by([pid])
    assert files_of(held, file) == {"weights": 40}
    assert held.own_mib >= 30
    assert abs(held.mib - 70 - bare) <= 8


def test_other_processes_that_map_a_file_change_no_figure(tmp_path: Path) -> None:
    file = make_file(tmp_path / "weights", 40)
    with ExitStack() as stack:
        first = stack.enter_context(process(file))
        alone = held_by([first])
        others = [stack.enter_context(process(file)) for _ in range(3)]
        assert held_by([first]).files == alone.files
        assert abs(held_by([first]).own_mib - alone.own_mib) <= 1
        # Together they hold it once.
        assert files_of(held_by([first, *others]), file) == {"weights": 40}


def test_one_inode_under_two_names_is_one_file(tmp_path: Path) -> None:
    file = make_file(tmp_path / "weights", 20)
    (tmp_path / "other").hardlink_to(file)
    with process(file) as one, process(tmp_path / "other") as other:
        assert held_by([one]).files.keys() & held_by([other]).files.keys() == set(held_by([one, other]).files)
        assert files_of(held_by([one, other]), file) == {"weights": 20}


def test_small_files_and_pages_that_were_written_to_are_a_processs_own(tmp_path: Path, bare: int) -> None:
    small, written = make_file(tmp_path / "small", 4), make_file(tmp_path / "written", 40)
    with process(small, written) as pid:
        held = held_by([pid])
    assert files_of(held, small, written) == {}
    assert abs(held.mib - 44 - bare) <= 8


def test_no_moment_between_two_looks_is_missed(tmp_path: Path) -> None:
    file = make_file(tmp_path / "weights", 40)
    with told() as told_process:
        pid, looks = told_process.pid, MemoryLooks()
        before = looks.at([pid])
        told_process.do(f"holds, copies = map_of({str(file)!r}), b'x' * {60 * MIB}; del holds, copies")
        after = looks.at([pid])
        assert abs(after.mib - before.mib) <= 8, "all of it is gone"
        assert abs(after.most_mib - before.mib - 100) <= 8
        told_process.do(f"copies = b'x' * {30 * MIB}; del copies")
        assert looks.at([pid]).most_mib == after.most_mib
        looks.begin([pid])
        assert abs(looks.at([pid]).most_mib - after.mib) <= 1
        told_process.do(f"copies = b'x' * {30 * MIB}; del copies")
        assert abs(looks.at([pid]).most_mib - after.mib - 30) <= 8


def test_a_highest_moment_that_cannot_be_put_back_counts_once_it_is_higher(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "write_text", refused)
    with told() as told_process:
        pid, looks = told_process.pid, MemoryLooks()
        told_process.do(f"copies = b'x' * {60 * MIB}; del copies")
        before = looks.at([pid])
        looks.begin([pid])
        told_process.do(f"copies = b'x' * {30 * MIB}")
        assert abs(looks.at([pid]).most_mib - before.mib - 30) <= 8
        told_process.do(f"del copies; copies = b'x' * {90 * MIB}; del copies")
        assert abs(looks.at([pid]).most_mib - before.mib - 90) <= 8


def refused(path: Path, text: str) -> None:
    raise PermissionError(path, text)


def test_a_file_that_becomes_a_processs_own_memory_is_news_though_no_more_is_there(tmp_path: Path) -> None:
    file = make_file(tmp_path / "weights", 40)
    with told() as told_process:
        pid, looks = told_process.pid, MemoryLooks()
        told_process.do(f"holds = map_of({str(file)!r})")
        before = looks.at([pid])
        told_process.do(f"del holds; copies = b'x' * {40 * MIB}")
        after = looks.at([pid])
    assert files_of(before, file) == {"weights": 40}
    assert files_of(after, file) == {}
    assert 32 <= after.own_mib - before.own_mib <= 48


def test_what_the_kernel_does_not_tell_is_nothing() -> None:
    assert held_by([2**22 + 1]) == Held()


def test_a_file_that_a_process_has_mapped_twice_is_in_memory_once(tmp_path: Path) -> None:
    file = make_file(tmp_path / "weights", 40)
    with told() as told_process:
        told_process.do(f"holds = [map_of({str(file)!r}) for _ in range(3)]")
        assert files_of(held_by([told_process.pid]), file) == {"weights": 40}


@pytest.mark.parametrize("removed", ["os.unlink({0!r})", "os.truncate({0!r}, 4096)", "os.rename({1!r}, {0!r})"])
def test_of_a_file_that_is_taken_away_what_is_mapped_still_counts_and_nothing_else(
    tmp_path: Path, removed: str
) -> None:
    file, other = make_file(tmp_path / "weights", 40), make_file(tmp_path / "other", 40)
    with told() as told_process:
        told_process.do(f"import os; holds = map_of({str(file)!r})")
        looks, inode = MemoryLooks(), file.stat().st_ino
        before = looks.at([told_process.pid])
        told_process.do(removed.format(str(file), str(other)))
        after = looks.at([told_process.pid])
    left = [mib for (_, number), mib in after.files.items() if number == inode]
    assert left == ([] if "truncate" in removed else [40])
    assert abs(after.own_mib - before.own_mib) <= 1


def test_memory_that_only_looks_like_a_file_counts_and_once_for_all_who_share_it() -> None:
    """Files of /dev/shm, `memfd`s and shared maps without a name are in no disk's cache: nothing frees them."""
    shared = f"import os; holds = mmap.mmap(-1, {40 * MIB}); holds.write(b'x' * {40 * MIB})"
    forks = "pid = os.fork() or (holds[:], sys.stdin.close(), __import__('time').sleep(3600))"
    with told() as told_process:
        looks = MemoryLooks()
        before = looks.at([told_process.pid])
        told_process.do(f"{shared}; {forks}")
        [fork] = descendants(told_process.pid)
        eventually(lambda: 40 in held_by([fork]).files.values(), "the fork has read it")
        after = looks.at([told_process.pid, fork])
        told_process.do("os.kill(pid, 9)")
    assert sum(after.files.values()) - sum(before.files.values()) == 40


def test_only_pages_of_a_file_that_are_in_memory_count(tmp_path: Path) -> None:
    path = make_file(tmp_path / "weights", 64)
    inode = path.stat().st_ino

    def mapped() -> dict[MappedFile, int]:
        return {file: mib for file, mib in held_by([os.getpid()]).files.items() if file[1] == inode}

    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as whole:
        assert mapped() == {}
        assert sum(whole[at] for at in range(0, 32 * MIB, 4096))
        assert 32 <= sum(mapped().values()) < 40
