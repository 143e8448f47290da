"""Power loss: what a disk may hold, a few states of each kind of object, and defects that must be found."""

import os
from collections.abc import Callable
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from benchmarks.handoff_faults.__main__ import power_loss_result
from headrace.store import local
from headrace.store.local import LocalStore
from simulation.faults.cases import Tally
from simulation.power_loss.crash_states import ROOT, Named, Operation, Said, Sized, Synced, Trace, Written, crash_states
from simulation.power_loss.kinds import KINDS, lose_power
from simulation.system_calls.recording import NotRecorded, record
from simulation.system_calls.tracing import TracingRefused, run_traced

NUM_STATES = 12
# How many states a planted defect may take to show.
NUM_TRIED = 24
FILE, DIRECTORY = 1, 2


def trees(*operations: Operation, num_states: int = 200) -> list[dict[str, bytes | None]]:
    """Every state after the last operation."""
    # What was said tells the last states from earlier ones that look the same.
    trace = Trace(operations=[*operations, Said("all")], directories={ROOT, DIRECTORY})
    return [dict(state.tree) for state in crash_states(trace, num_states, 1) if state.said]


def test_what_was_not_fsynced_is_there_in_part_or_not_at_all() -> None:
    found = trees(Named(ROOT, "a", FILE), Written(FILE, 0, b"x" * 10))
    for tree in ({}, {"a": b""}, {"a": bytes(10)}, {"a": b"x" * 10}):
        assert tree in found
    assert any(0 < len(tree.get("a") or b"") < 10 for tree in found)


def test_an_fsynced_file_without_its_directory_may_have_no_name() -> None:
    found = trees(Named(ROOT, "a", FILE), Written(FILE, 0, b"x"), Synced(FILE))
    assert {} in found
    assert {tree["a"] for tree in found if tree} == {b"x"}


def test_what_is_fsynced_with_its_directory_stays() -> None:
    found = trees(Named(ROOT, "a", FILE), Written(FILE, 0, b"x"), Synced(FILE), Synced(ROOT))
    assert found == [{"a": b"x"}]


def test_a_directory_that_has_no_name_takes_its_files_with_it() -> None:
    made = (Named(ROOT, "d", DIRECTORY), Named(DIRECTORY, "a", FILE), Written(FILE, 0, b"x"), Synced(FILE))
    assert {} in trees(*made, Synced(DIRECTORY))
    assert trees(*made, Synced(DIRECTORY), Synced(ROOT)) == [{"d": None, "d/a": b"x"}]


def test_a_deletion_may_come_back_and_overtake_an_earlier_one() -> None:
    kept = (Named(ROOT, "a", FILE), Named(ROOT, "b", DIRECTORY), Synced(ROOT))
    found = trees(*kept, Named(ROOT, "a", None), Named(ROOT, "b", None))
    assert {"a": b"", "b": None} in found
    assert {"a": b""} in found


def test_a_renamed_file_has_one_of_its_names_at_least() -> None:
    old = (ROOT, "a")
    kept = (Named(ROOT, "a", FILE), Written(FILE, 0, b"x"), Synced(FILE), Synced(ROOT))
    assert all(tree for tree in trees(*kept, Named(ROOT, "b", FILE, moved_from=old)))
    assert trees(*kept, Named(ROOT, "b", FILE, moved_from=old), Synced(ROOT)) == [{"b": b"x"}]


def test_a_file_that_was_cut_and_written_again_has_its_old_bytes_until_it_is_fsynced() -> None:
    kept = (Named(ROOT, "a", FILE), Written(FILE, 0, b"old"), Synced(FILE), Synced(ROOT))
    found = trees(*kept, Sized(FILE, 0), Written(FILE, 0, b"new"))
    assert {"a": b"old"} in found
    assert {"a": b"new"} in found


@pytest.fixture
def traced(tmp_path: Path) -> None:
    try:
        run_traced(lambda say: None, tmp_path)
    except TracingRefused as error:
        pytest.skip(str(error))


@pytest.mark.process
@pytest.mark.usefixtures("traced")
def test_a_record_is_what_the_process_did(tmp_path: Path) -> None:
    (tmp_path / "there").write_bytes(b"before")

    def work(say: Callable[[bytes], Any]) -> None:
        os.mkdir(tmp_path / "d")  # noqa: PTH102
        descriptor = os.open(tmp_path / "d" / "a", os.O_CREAT | os.O_RDWR)
        os.write(descriptor, b"one")
        os.pwrite(descriptor, b"two", 8)
        os.writev(descriptor, [b"th", b"ree"])
        os.ftruncate(descriptor, 9)
        os.fsync(descriptor)
        say(b"done")
        os.rename(tmp_path / "d" / "a", tmp_path / "b")  # noqa: PTH104
        os.link(tmp_path / "b", tmp_path / "c")
        os.unlink(tmp_path / "b")  # noqa: PTH108

    trace = record(work, tmp_path).trace
    assert trace.entries == {(ROOT, "there"): 1}
    assert trace.contents == {1: b"before"}
    assert trace.operations == [
        Named(ROOT, "d", 2),
        Named(2, "a", 3),
        Written(3, 0, b"one"),
        Written(3, 8, b"two"),
        Written(3, 3, b"three"),
        Sized(3, 9),
        Synced(3),
        Said("done"),
        Named(ROOT, "b", 3, moved_from=(2, "a")),
        Named(ROOT, "c", 3),
        Named(ROOT, "b", None),
    ]


@pytest.mark.process
@pytest.mark.usefixtures("traced")
def test_what_cannot_be_recorded_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NotRecorded, match="system call symlink is not recorded"):
        record(lambda say: (tmp_path / "a").symlink_to(tmp_path / "b"), tmp_path)


@pytest.mark.process
@pytest.mark.usefixtures("traced")
@pytest.mark.parametrize("kind", sorted(KINDS))
def test_nothing_is_torn_or_lost_when_the_power_fails(tmp_path: Path, kind: str) -> None:
    tally = lose_power(tmp_path / "disk", kind, NUM_STATES, 1, lambda: None)
    assert tally.faults == NUM_STATES
    assert (tally.torn, tally.silent, tally.lost) == (0, 0, 0), tally.notes


class WithoutFsyncOfFiles(LocalStore):
    """What must not be: an object has a name before its bytes are on disk."""

    def create(self, key: str, body: bytes, *, durable: bool = True) -> bool:
        with patched(local.os, "fsync", lambda descriptor: None), patched(local, "_fsync_directory", fsync_for_sure):
            return super().create(key, body, durable=durable)


class WithoutFsyncOfDirectories(LocalStore):
    def create(self, key: str, body: bytes, *, durable: bool = True) -> bool:
        with patched(local, "_fsync_directory", lambda directory: None):
            return super().create(key, body, durable=durable)


class NamedBeforeItIsWhole(LocalStore):
    """The bytes are fsynced in the end, too late."""

    def create(self, key: str, body: bytes, *, durable: bool = True) -> bool:
        path = self.local_path(key)
        if not durable or path.exists():
            return super().create(key, body, durable=durable)
        path.parent.mkdir(parents=True, exist_ok=True)
        self._make_durable(path.parent)
        with path.open("wb") as file:
            fsync_for_sure(path.parent)
            file.write(body)
            file.flush()
            os.fsync(file.fileno())
        return True


class ToldBeforeItIsDurable(LocalStore):
    """Fsyncs an object's directory when the next one is made."""

    def create(self, key: str, body: bytes, *, durable: bool = True) -> bool:
        waiting = self.__dict__.setdefault("waiting", [])
        while waiting:
            with suppress(FileNotFoundError):  # deleted since
                fsync_for_sure(waiting.pop())
        self.local_path(key).parent.mkdir(parents=True, exist_ok=True)
        self._make_durable(self.local_path(key).parent)
        with patched(local, "_fsync_directory", waiting.append):
            return super().create(key, body, durable=durable)


def fsync_for_sure(directory: Path, fsync: Any = os.fsync) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    fsync(descriptor)
    os.close(descriptor)


@contextmanager
def patched(module: Any, name: str, value: Any) -> Any:
    before = getattr(module, name)
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, before)


@pytest.mark.process
@pytest.mark.usefixtures("traced")
@pytest.mark.parametrize(
    ("store", "kind", "found"),
    [
        (WithoutFsyncOfFiles, "weights", "torn"),
        (WithoutFsyncOfDirectories, "journal", "lost"),
        (NamedBeforeItIsWhole, "journal", "torn"),
        (ToldBeforeItIsDurable, "journal", "lost"),
    ],
)
def test_a_store_that_leaves_out_an_fsync_is_found(
    tmp_path: Path, store: Callable[[Path], LocalStore], kind: str, found: str
) -> None:
    tally = lose_power(tmp_path / "disk", kind, NUM_TRIED, 1, lambda: None, open_store=store)
    assert getattr(tally, found) > 0, tally.notes


def test_a_bar_says_what_was_found_and_what_is_asked() -> None:
    _, bars = power_loss_result([Tally("power lost: journal", faults=299, lost=1)], ["journal"])
    assert bars["states_of_journal"] == {"value": 299, "bar": 300, "met": False}
    assert bars["states_lost"] == {"value": 1, "bar": 0, "met": False}
    assert bars["states_torn"]["met"]
