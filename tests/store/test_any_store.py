"""What every store promises, on a directory and on a real S3 server."""

import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import xxhash

from headrace.errors import HandoffCorrupt, InvalidInput, ObjectMissing
from headrace.store.local import LocalStore
from headrace.store.objects import Entry, ObjectStore, Segment, create_json
from headrace.store.opening import open_store
from headrace.store.sealed_directory import open_directory, seal_directory
from headrace.training.checkpoints import Checkpoint, CheckpointFile, newest_whole, publish, write_file
from pipelines.object_store import ObjectStoreServer

BIG = os.urandom(1 << 20) * 20


@pytest.fixture
def environment(tmp_path: Path, server: ObjectStoreServer) -> dict[str, str]:
    return {**os.environ, **server.environment, "HEADRACE_CACHE": str(tmp_path / "cache")}


def write_part(store: ObjectStore, key: str, body: bytes) -> None:
    with store.write_part(key) as part:
        for start in range(0, len(body), 3_000_000):
            part.write(memoryview(body)[start : start + 3_000_000])


def segment(body: bytes, offset: int, num_bytes: int) -> Segment:
    digest = xxhash.xxh3_128_hexdigest(body[offset : offset + num_bytes])
    return Segment(offset=offset, num_bytes=num_bytes, xxh3_128=digest)


def test_an_object_is_created_once_and_reads_back(any_store: ObjectStore) -> None:
    for durable, key in ((True, "claims/a.json"), (False, "leases/n/me-12")):
        assert not any_store.exists(key)
        assert any_store.create(key, b"first", durable=durable)
        assert not any_store.create(key, b"second", durable=durable)
        assert any_store.read(key) == b"first"
        assert any_store.exists(key)


def test_an_object_gets_another_content_and_what_is_not_there_none(any_store: ObjectStore) -> None:
    key = "windows/1.json"
    assert not any_store.replace(key, b"nothing", of=b"")
    assert not any_store.exists(key)
    assert any_store.create(key, b"first")
    assert any_store.replace(key, b"second", of=b"first")
    assert not any_store.replace(key, b"third", of=b"first")
    assert any_store.read(key) == b"second"
    with ThreadPoolExecutor(6) as threads:
        wins = list(threads.map(lambda who: any_store.replace(key, bytes([who]), of=b"second"), range(6)))
    assert sum(wins) == 1
    assert any_store.read(key) == bytes([wins.index(True)])
    assert any_store.list("windows") == [key]


def test_of_many_threads_that_create_one_key_exactly_one_wins(any_store: ObjectStore) -> None:
    with ThreadPoolExecutor(6) as threads:
        for number in range(2):
            wins = list(threads.map(lambda who, n=number: any_store.create(f"race/{n}", bytes([who])), range(6)))
            assert sum(wins) == 1
            assert any_store.read(f"race/{number}") == bytes([wins.index(True)])


@pytest.mark.process
def test_of_many_processes_that_create_one_key_exactly_one_wins(
    any_store: ObjectStore, environment: dict[str, str]
) -> None:
    script = (
        "import sys; from headrace.store.opening import open_store\n"
        "store = open_store(sys.argv[1]); print('ready', flush=True); sys.stdin.readline()\n"
        "print(''.join(str(int(store.create(f'journal/{n:08d}.json', sys.argv[2].encode() * 999))) for n in range(40)))"
    )
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", script, any_store.url, name],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for name in "abcd"
    ]
    for writer in writers:
        assert writer.stdout
        writer.stdout.readline()
    for writer in writers:
        assert writer.stdin
        writer.stdin.write("go\n")
        writer.stdin.flush()
    wins = [writer.communicate()[0].strip() for writer in writers]
    for number, column in enumerate(zip(*wins, strict=True)):
        assert column.count("1") == 1
        assert any_store.read(f"journal/{number:08d}.json").decode() == "abcd"[column.index("1")] * 999


def test_the_url_of_a_store_opens_it_again(
    any_store: ObjectStore, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    any_store.create("a/b", b"1")
    again = open_store(any_store.url)
    assert again.read("a/b") == b"1"
    assert again.url == any_store.url


@pytest.mark.parametrize("url", ["", "ftp://host/x", "s3://", "s3://bucket/x?y", "file://host/x"])
def test_a_url_of_no_store_is_refused(url: str) -> None:
    with pytest.raises(InvalidInput, match="must be"):
        open_store(url)


@pytest.mark.parametrize("body", [b"", b"small", BIG], ids=["empty", "small", "20 MB"])
def test_a_part_is_visible_only_after_the_whole_of_it_is_written(any_store: ObjectStore, body: bytes) -> None:
    with any_store.write_part("parts/n/one") as part:
        part.write(body)
        part.flush()
        assert part.num_bytes == len(body)
        assert any_store.list("parts") == []
    assert any_store.read("parts/n/one") == body


@pytest.mark.parametrize("num_bytes", [10, len(BIG)])
def test_a_part_whose_writer_fails_leaves_nothing(any_store: ObjectStore, num_bytes: int) -> None:
    with pytest.raises(ConnectionError), any_store.write_part("parts/n/one") as part:  # noqa: PT012
        part.write(BIG[:num_bytes])
        raise ConnectionError
    assert any_store.list("parts") == []


@pytest.mark.parametrize("body", [b"2", BIG], ids=["small", "20 MB"])
def test_a_part_key_is_never_written_twice(any_store: ObjectStore, body: bytes) -> None:
    write_part(any_store, "parts/n/one", b"1")
    with pytest.raises(InvalidInput, match="Part parts/n/one is already there"):
        write_part(any_store, "parts/n/one", body)
    assert any_store.read("parts/n/one") == b"1"


def test_ranges_come_back_in_the_order_asked_for(any_store: ObjectStore) -> None:
    any_store.create("a/b", bytes(range(100)))
    ranges = [(90, 10), (0, 1), (50, 0), (3, 4)]
    assert [bytes(body) for body in any_store.read_ranges("a/b", ranges)] == [
        bytes(range(offset, offset + num_bytes)) for offset, num_bytes in ranges
    ]
    assert any_store.read_ranges("a/b", []) == []
    for beyond in [(95, 6), (100, 1), (1000, 1)]:
        with pytest.raises(HandoffCorrupt, match=r"a/b ends .*it is torn"):
            any_store.read_ranges("a/b", [(0, 1), beyond])
    with pytest.raises(ObjectMissing, match=r"a/x does not exist\."):
        any_store.read_ranges("a/x", [(0, 1)])


def test_a_prefix_is_whole_segments(any_store: ObjectStore) -> None:
    for key in ("a/b/c", "a/bc", "a/b.json", "a/é=| x/%7C"):
        any_store.create(key, key.encode())
    assert any_store.list("a/b") == ["a/b/c"]
    assert any_store.list("a") == ["a/b.json", "a/b/c", "a/bc", "a/é=| x/%7C"]
    assert any_store.children("a") == ["b", "b.json", "bc", "é=| x"]
    assert "a" in any_store.children("")
    assert any_store.list("absent") == any_store.children("absent") == any_store.entries("absent") == []


def test_entries_show_sizes_and_the_stores_own_time(any_store: ObjectStore) -> None:
    any_store.create("a/two", b"22")
    any_store.create("a/b/one", b"1")
    entries = any_store.entries("a")
    assert [(entry.key, entry.num_bytes) for entry in entries] == [("a/b/one", 1), ("a/two", 2)]
    assert all(isinstance(entry, Entry) and entry.modified_at > 1.7e9 for entry in entries)


def test_what_is_deleted_is_gone_and_may_be_deleted_again(any_store: ObjectStore) -> None:
    for key in ("a/1", "a/b/2", "ab/3"):
        any_store.create(key, b"")
    any_store.delete("a/1")
    any_store.delete("a/1")
    assert any_store.list("a") == ["a/b/2"]
    any_store.delete_prefix("a")
    any_store.delete_prefix("a")
    assert any_store.list("a") == []
    assert any_store.list("ab") == ["ab/3"]
    assert any_store.create("a/1", b"again")


@pytest.mark.parametrize(
    "key", ["", "/a", "a/", "a//b", "a/../b", "./a", ".tmp/a", "a/\0", "a/" + "x" * 256, "a\ud800"]
)
def test_a_key_that_could_leave_the_store_is_refused(any_store: ObjectStore, key: str) -> None:
    with pytest.raises(InvalidInput, match="Store key must be"):
        any_store.create(key, b"")


def test_a_writers_nonce_settles_who_won(any_store: ObjectStore) -> None:
    first = create_json(any_store, "claims/one.json", {"set": "s1"}, nonce="n1")
    again = create_json(any_store, "claims/one.json", {"set": "s1"}, nonce="n1")
    other = create_json(any_store, "claims/one.json", {"set": "s2"})
    assert (first.won, again.won, other.won) == (True, True, False)
    assert other.body == {"set": "s1", "nonce": "n1"}


def test_an_object_lies_on_this_machine_to_be_mapped(any_store: ObjectStore) -> None:
    write_part(any_store, "parts/n/one", BIG)
    path = any_store.local_path("parts/n/one")
    assert path.read_bytes() == BIG
    assert path.name == "one"
    assert path.stat().st_mode & 0o222 == 0


def test_an_object_has_a_second_name_or_none_is_made(any_store: ObjectStore) -> None:
    for key in ("parts/n1/one", "parts/n1/taken"):
        write_part(any_store, key, key.encode())
    is_linked = any_store.link("parts/n2/deep/one", "parts/n1/one")
    assert any_store.exists("parts/n2/deep/one") == is_linked == isinstance(any_store, LocalStore)
    assert not any_store.link("parts/n1/taken", "parts/n1/one")
    assert not any_store.link("parts/n3/one", "parts/n1/absent")
    assert any_store.read("parts/n1/taken") == b"parts/n1/taken"
    any_store.delete("parts/n1/one")
    if is_linked:
        assert any_store.read("parts/n2/deep/one") == b"parts/n1/one"
        # By its own success, which an NFS client may be told again.
        assert any_store.link("parts/n2/deep/two", "parts/n2/deep/one")
        assert any_store.link("parts/n2/deep/two", "parts/n2/deep/one")


def test_a_directory_lies_on_this_machine_under_its_plain_names(any_store: ObjectStore) -> None:
    bodies = {"model.bin": BIG, "sub/config.json": b"{}", "empty": b""}
    for name, body in bodies.items():
        write_part(any_store, f"weights/n/{name}", body)
    directory = any_store.local_directory("weights/n")
    found = {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}
    assert found == bodies


def test_segments_of_a_local_file_are_the_objects(any_store: ObjectStore) -> None:
    write_part(any_store, "parts/n/one", BIG)
    wanted = [segment(BIG, 18_000_000, 100), segment(BIG, 0, 7), segment(BIG, 7, 12_345_678), segment(BIG, 99, 0)]
    path = any_store.local_segments("parts/n/one", digest="d", num_bytes=len(BIG), segments=wanted)
    assert path.stat().st_size == len(BIG)
    with path.open("rb") as file:
        for one in wanted:
            file.seek(one.offset)
            assert file.read(one.num_bytes) == BIG[one.offset : one.offset + one.num_bytes]


def test_a_sealed_directory_opens_and_is_repaired(any_store: ObjectStore, tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "tokenizer").mkdir(parents=True)
    (source / "model.safetensors").write_bytes(BIG[:9_000_000])
    (source / "tokenizer/vocab.txt").write_text("a\n")
    sealed = seal_directory(any_store, source)
    assert (open_directory(any_store, sealed.digest) / "tokenizer/vocab.txt").read_text() == "a\n"
    any_store.delete(f"{sealed.key}/tokenizer/vocab.txt")
    write_part(any_store, f"{sealed.key}/tokenizer/vocab.txt", b"b\n")
    with pytest.raises(HandoffCorrupt, match=r"vocab\.txt is missing or is not sha256"):
        open_directory(any_store, sealed.digest)
    assert seal_directory(any_store, source) == sealed
    assert (open_directory(any_store, sealed.digest) / "tokenizer/vocab.txt").read_text() == "a\n"


def files_of(store: ObjectStore, prefix: str) -> Iterator[CheckpointFile]:
    files: list[CheckpointFile] = []
    for rank in range(2):
        with write_file(store, prefix, f"rank-{rank}.pt", files.append) as file:
            file.write(BIG[: 9_000_000 + rank])
    yield from files


def test_the_newest_whole_checkpoint_is_resumed(any_store: ObjectStore) -> None:
    any_store.create("training/t/attempts/000001.json", b"{}")
    for step in (10, 20):
        prefix = f"training/t/parts/n{step}"
        files = tuple(files_of(any_store, prefix))
        checkpoint = Checkpoint(training_id="t", step=step, attempt=1, world_size=2, prefix=prefix, files=files)
        assert publish(any_store, checkpoint)
    newest = newest_whole(any_store, "t", world_size=2)
    assert newest
    assert newest.step == 20
    assert (newest.directory(any_store) / "rank-1.pt").stat().st_size == 9_000_001
    any_store.delete("training/t/parts/n20/rank-1.pt")
    resumed = newest_whole(any_store, "t", world_size=2)
    assert resumed
    assert resumed.step == 10


@pytest.mark.parametrize("url", ["s3://AKIA1:planted-key@bucket/x", "s3://bucket/x?secret_access_key=planted-key"])
def test_a_key_in_a_stores_address_is_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(InvalidInput, match="has no room for keys.*and set AWS_ACCESS_KEY_ID") as refused:
        open_store(url)
    assert "planted-key" not in str(refused.value)


def test_a_cache_limit_that_is_no_number_of_bytes_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for text in ("20GB", "0", "-1", "1e9", "9" * 5000):
        monkeypatch.setenv("HEADRACE_CACHE_BYTES", text)
        with pytest.raises(InvalidInput, match="^HEADRACE_CACHE_BYTES must be a positive whole number of bytes, got "):
            open_store("s3://bucket", cache=tmp_path)
    for url in ("s3://b\udcff/p", "file:///a%00b", str(tmp_path / "\ud800")):
        with pytest.raises(InvalidInput, match="^A store's URL must be text in UTF-8 without NUL, got "):
            open_store(url)
