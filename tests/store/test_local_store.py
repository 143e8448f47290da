import errno
import os
import resource
import shutil
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from headrace.errors import HandoffCorrupt, ObjectMissing, StoreUnavailable
from headrace.store import local
from headrace.store.local import LocalStore
from headrace.store.objects import canonical_json


@pytest.fixture
def file_size_limit() -> Iterator[int]:
    """Stands in for a full disk: the kernel refuses to let a file grow beyond this."""
    num_bytes = 256 * 1024
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    yield num_bytes
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def temporaries(store: LocalStore) -> list[str]:
    return [path.name for path in (store.directory / ".tmp").iterdir()]


def test_neither_an_object_nor_a_part_whose_writer_fails_leaves_a_temporary_file(store: LocalStore) -> None:
    assert store.create("claims/a/a0001.json", b"first")
    assert not store.create("claims/a/a0001.json", b"second")
    with pytest.raises(ConnectionError), store.write_part("parts/n/one") as part:  # noqa: PT012
        part.write(b"x" * 10_000_000)
        raise ConnectionError
    assert temporaries(store) == []


@pytest.fixture
def fsynced(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Directories, in order of their fsyncs."""
    found: list[Path] = []
    fsync = local._fsync_directory

    def noted(directory: Path) -> None:
        fsync(directory)
        found.append(directory)

    monkeypatch.setattr(local, "_fsync_directory", noted)
    return found


def test_a_store_in_directories_that_it_made_puts_them_on_disk(tmp_path: Path, fsynced: list[Path]) -> None:
    LocalStore(tmp_path / "home" / "store").create("a", b"1")
    assert {tmp_path, tmp_path / "home", tmp_path / "home" / "store"} <= set(fsynced)


def test_a_directory_that_was_deleted_and_made_again_is_put_on_disk_again(
    store: LocalStore, fsynced: list[Path]
) -> None:
    store.create("x/y/1", b"1")
    store.delete_prefix("x")
    fsynced.clear()
    store.create("x/y/2", b"2")
    assert {store.directory, store.directory / "x", store.directory / "x" / "y"} <= set(fsynced)


@pytest.mark.parametrize(("durable", "times"), [(True, 1), (False, 0)])
def test_a_deletion_is_on_disk_unless_it_need_not_be(
    store: LocalStore, fsynced: list[Path], durable: bool, times: int
) -> None:
    store.create("x/1", b"1")
    fsynced.clear()
    store.delete("x/1", durable=durable)
    store.delete("nowhere/1", durable=durable)
    assert fsynced == [store.directory / "x"] * times


def test_a_lost_reply_to_link_is_not_taken_for_a_lost_race(store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    link = os.link

    def link_whose_reply_is_lost(source: Path, target: Path) -> None:
        link(source, target)
        raise FileExistsError(errno.EEXIST, "File exists", str(target))  # what NFS says to the client's second try

    monkeypatch.setattr(os, "link", link_whose_reply_is_lost)
    assert store.create("journal/00000001.json", b"mine")
    assert not store.create("journal/00000001.json", b"theirs")
    assert store.read("journal/00000001.json") == b"mine"


def test_a_full_disk_is_one_clear_sentence_and_leaves_nothing(store: LocalStore, file_size_limit: int) -> None:
    with (
        pytest.raises(StoreUnavailable, match=r"Store .*store cannot serve parts/n/big: the file would be larger"),
        store.write_part("parts/n/big") as part,
    ):
        part.write(b"x" * (file_size_limit + 1))
    with pytest.raises(StoreUnavailable):
        store.create("claims/big.json", b"x" * (file_size_limit + 1))
    with pytest.raises(StoreUnavailable, match="the file would be larger"):
        store.create("claims/big.json", b"x" * (file_size_limit + 1), durable=False)
    assert store.list("parts") == store.list("claims") == []
    assert temporaries(store) == []
    assert store.create("claims/small.json", b"fits")


def test_a_store_whose_path_is_a_file_says_so(tmp_path: Path) -> None:
    (tmp_path / "store").write_text("not a directory")
    with pytest.raises(StoreUnavailable, match="a part of the path is a file"):
        LocalStore(tmp_path / "store").create("a/b", b"")


def test_the_callers_own_errors_are_not_blamed_on_the_store(store: LocalStore, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), store.write_part("parts/n/one") as part:
        part.write((tmp_path / "absent").read_bytes())


def test_a_missing_object_is_named(store: LocalStore) -> None:
    with pytest.raises(ObjectMissing, match=r"file:///.*/claims/x%7Cy\.json does not exist"):
        store.read("claims/x|y.json")


def test_a_directory_that_was_deleted_meanwhile_is_made_again(store: LocalStore) -> None:
    store.create("batches/c1/b00000.arrow", b"1")
    LocalStore(store.directory).delete_prefix("batches")
    assert store.create("batches/c1/b00000.arrow", b"2")


@pytest.mark.parametrize("durable", [True, False])
def test_deleting_beside_a_writer_and_another_deleter_fails_for_none_and_leaves_at_most_what_came_meanwhile(
    store: LocalStore, durable: bool
) -> None:
    """An abort drops an attempt's rows while its worker still writes some."""
    is_over = threading.Event()

    def write() -> int:
        number = 0
        while not is_over.is_set():
            assert LocalStore(store.directory).create(f"batches/c1/deep/{number}", b"1", durable=durable)
            number += 1
        return number

    def delete() -> None:
        while not is_over.is_set():
            LocalStore(store.directory).delete_prefix("batches")

    with ThreadPoolExecutor(2) as threads:
        others = [threads.submit(write), threads.submit(delete)]
        try:
            for number in range(100):
                store.create(f"batches/c1/mine-{number}", b"1", durable=durable)
                store.delete_prefix("batches/c1")
                assert not store.exists(f"batches/c1/mine-{number}")
        finally:
            is_over.set()
        assert others[0].result() > 0
        others[1].result()
    store.delete_prefix("batches")
    assert store.list("batches") == []


def test_a_directory_that_is_deleted_between_link_and_fsync_ends_in_no_error_and_is_not_known(
    store: LocalStore, fsynced: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    link = os.link

    def linked_and_deleted(*where: object) -> None:
        monkeypatch.setattr(os, "link", link)
        link(*where)  # pyright: ignore[reportArgumentType]
        LocalStore(store.directory).delete_prefix("x")

    monkeypatch.setattr(os, "link", linked_and_deleted)
    assert store.create("x/y/1", b"1")
    assert not store.exists("x/y/1")
    fsynced.clear()
    assert store.create("x/y/2", b"2")
    assert {store.directory, store.directory / "x", store.directory / "x" / "y"} <= set(fsynced)


def test_a_link_in_the_store_leads_no_deletion_out_of_it(store: LocalStore, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").touch()
    store.create("x/1", b"")
    (store.directory / "x" / "within").symlink_to(outside)
    (store.directory / "link").symlink_to(outside)
    store.delete_prefix("x")
    with pytest.raises(StoreUnavailable, match="a part of the path is a file"):
        store.delete_prefix("link")
    assert (outside / "kept").exists()
    assert not (store.directory / "x").exists()


def test_what_a_killed_writer_left_is_swept_after_a_day(store: LocalStore) -> None:
    store.create("a/b", b"")
    old, recent = (store.directory / ".tmp" / name for name in ("old", "recent"))
    for path in (old, recent):
        path.write_bytes(b"torn")
    os.utime(old, (0, old.stat().st_mtime - 25 * 3600))
    store.create("a/c", b"")
    assert old.exists()  # once a process is enough
    LocalStore(store.directory).create("a/d", b"")
    assert temporaries(store) == ["recent"]


def test_one_value_has_one_spelling() -> None:
    assert canonical_json({"b": 1, "a": "é"}) == '{"a":"é","b":1}'.encode()
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical_json(float("nan"))


KEYS = st.sampled_from([f"{room}/{name}" for room in ("x", "y/z") for name in ("1", "2", "é|")])


class StoreIsADictionary(RuleBasedStateMachine):
    """Whatever the order of operations, through whichever of two handles: a dictionary whose keys are set once."""

    @initialize()
    def start(self) -> None:
        directory = Path(tempfile.mkdtemp(prefix="headrace-store-"))
        self.stores = [LocalStore(directory), LocalStore(directory)]
        self.model: dict[str, bytes] = {}

    @rule(key=KEYS, body=st.binary(max_size=20), who=st.sampled_from([0, 1]))
    def create(self, key: str, body: bytes, who: int) -> None:
        assert self.stores[who].create(key, body) == (key not in self.model)
        self.model.setdefault(key, body)

    @rule(key=KEYS, who=st.sampled_from([0, 1]))
    def delete(self, key: str, who: int) -> None:
        self.stores[who].delete(key)
        self.model.pop(key, None)

    @rule(prefix=st.sampled_from(["x", "y", "y/z"]), who=st.sampled_from([0, 1]))
    def delete_prefix(self, prefix: str, who: int) -> None:
        self.stores[who].delete_prefix(prefix)
        self.model = {key: body for key, body in self.model.items() if not key.startswith(prefix + "/")}

    @rule(key=KEYS, who=st.sampled_from([0, 1]))
    def read(self, key: str, who: int) -> None:
        assert self.stores[who].exists(key) == (key in self.model)
        if key in self.model:
            assert self.stores[who].read(key) == self.model[key]
        else:
            with pytest.raises(ObjectMissing):
                self.stores[who].read(key)

    @invariant()
    def lists_what_is_there(self) -> None:
        listed = [key for prefix in ("x", "y") for key in self.stores[0].list(prefix)]
        assert sorted(listed) == sorted(self.model)
        assert temporaries(self.stores[0]) == [] if self.model else True

    def teardown(self) -> None:
        shutil.rmtree(self.stores[0].directory)


TestStoreIsADictionary = StoreIsADictionary.TestCase


def test_what_is_no_file_is_not_taken_for_missing(store: LocalStore) -> None:
    store.create("claims/x.json/below", b"")
    store.create("claims/y.json", b"")
    for look in (store.read, lambda key: store.read_ranges(key, [(0, 1)])):
        with pytest.raises(HandoffCorrupt, match=r"x\.json is a directory, where the store keeps an object") as error:
            look("claims/x.json")
        assert error.value.key == "claims/x.json"
        with pytest.raises(HandoffCorrupt, match=r"a\.json is below a file, where the store keeps an object"):
            look("claims/y.json/a.json")
