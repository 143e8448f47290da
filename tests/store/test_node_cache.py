"""What a node keeps of remote objects: shared by processes, bounded, and never wrong."""

import mmap
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event, Thread

import pytest
import xxhash

from headrace.errors import HandoffCorrupt, StoreUnavailable
from headrace.store import cached_segments, node_cache, sparse_file
from headrace.store.cached_segments import fill_segments
from headrace.store.node_cache import NodeCache
from headrace.store.objects import Segment
from simulation.faults.proxy import FaultProxy, fault_proxy

BODY = bytes(range(256)) * 4096
PIECE = 64 * 1024
SEGMENTS = [
    Segment(offset=start, num_bytes=PIECE, xxh3_128=xxhash.xxh3_128_hexdigest(BODY[start : start + PIECE]))
    for start in range(0, len(BODY), PIECE)
]


class Remote:
    """The other end of a fetch: counts, and can damage or stop what it sends."""

    def __init__(self) -> None:
        self.body = bytearray(BODY)
        self.num_bytes = 0
        self.num_requests = 0

    def fetch(self, offset: int, num_bytes: int) -> Iterator[memoryview]:
        self.num_requests += 1
        self.num_bytes += num_bytes
        end = min(offset + num_bytes, len(self.body))
        for start in range(offset, end, 10_000):
            yield memoryview(self.body)[start : min(start + 10_000, end)]


@pytest.fixture
def cache(tmp_path: Path) -> NodeCache:
    return NodeCache(tmp_path / "cache", grace_seconds=0)


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as pool:
        yield pool


def fill(cache: NodeCache, remote: Remote, threads: ThreadPoolExecutor, segments: list[Segment], digest: str = "d"):
    return fill_segments(
        cache, "s3://b/k", remote.fetch, threads, digest=digest, num_bytes=len(BODY), segments=segments
    )


def holds(path: Path, segments: list[Segment]) -> bool:
    body = path.read_bytes()
    return all(body[s.offset : s.offset + s.num_bytes] == BODY[s.offset : s.offset + s.num_bytes] for s in segments)


def test_only_what_is_asked_for_and_missing_is_fetched(cache: NodeCache, threads: ThreadPoolExecutor) -> None:
    remote = Remote()
    path = fill(cache, remote, threads, SEGMENTS[4:8])
    assert (remote.num_requests, remote.num_bytes) == (1, 4 * PIECE)  # neighbours joined
    assert path.stat().st_size == len(BODY)
    assert path.stat().st_blocks * 512 < len(BODY)
    assert fill(NodeCache(cache.directory), remote, threads, SEGMENTS[2:9]) == path
    assert remote.num_bytes == 7 * PIECE
    assert holds(path, SEGMENTS[2:9])


def test_a_long_segment_is_fetched_in_pieces(
    cache: NodeCache, threads: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cached_segments, "REQUEST_BYTES", 20_000)
    remote = Remote()
    path = fill(cache, remote, threads, SEGMENTS[:3])
    assert remote.num_requests == 3 * 4
    assert remote.num_bytes == 3 * PIECE
    assert holds(path, SEGMENTS[:3])


def test_a_flip_on_the_way_is_fetched_again_and_twice_is_an_error(
    cache: NodeCache, threads: ThreadPoolExecutor
) -> None:
    remote = Remote()
    remote.body[PIECE + 5] ^= 1
    with pytest.raises(HandoffCorrupt, match=rf"s3://b/k is damaged: its {PIECE} bytes at {PIECE} are not xxh3-128"):
        fill(cache, remote, threads, SEGMENTS[:4])
    assert (remote.num_requests, remote.num_bytes) == (2, 5 * PIECE)
    remote.body[PIECE + 5] ^= 1
    assert holds(fill(cache, remote, threads, SEGMENTS[:4]), SEGMENTS[:4])
    assert remote.num_bytes == 6 * PIECE


def test_an_object_that_ends_early_is_torn(cache: NodeCache, threads: ThreadPoolExecutor) -> None:
    remote = Remote()
    del remote.body[PIECE + 1 :]
    with pytest.raises(HandoffCorrupt, match=rf"s3://b/k ends at byte {PIECE + 1}, before byte {2 * PIECE}"):
        fill(cache, remote, threads, SEGMENTS[:2])


@pytest.mark.parametrize("how", ["an earlier boot", "a write behind the marks"])
def test_doubtful_marks_are_believed_only_after_a_look_at_the_bytes(
    cache: NodeCache, threads: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    remote = Remote()
    path = fill(cache, remote, threads, SEGMENTS[:4])
    times = path.stat().st_mtime_ns
    with path.open("r+b") as file:
        file.seek(PIECE + 77)
        file.write(b"\0\0")
    if how == "an earlier boot":
        os.utime(path, ns=(times, times))
        monkeypatch.setattr(sparse_file, "boot_identity", lambda: "f" * 32)
    else:
        later = (path.parent / "marks").stat().st_mtime_ns + 1
        os.utime(path, ns=(later, later))
    assert holds(fill(cache, remote, threads, SEGMENTS[:4]), SEGMENTS[:4])
    assert remote.num_bytes == 5 * PIECE


def test_fillers_at_the_same_time_fetch_once_and_never_write_over_each_other(
    cache: NodeCache, threads: ThreadPoolExecutor
) -> None:
    good, bad = Remote(), Remote()
    bad.body[:] = bytes(len(BODY))
    arrived, go_on = Event(), Event()

    class Slow(Remote):
        def fetch(self, offset: int, num_bytes: int) -> Iterator[memoryview]:
            arrived.set()
            go_on.wait(10)
            return super().fetch(offset, num_bytes)

    slow = Slow()
    first = Thread(target=lambda: fill(cache, slow, threads, SEGMENTS[:4]))
    first.start()
    arrived.wait(10)
    second = Thread(target=lambda: fill(NodeCache(cache.directory), bad, threads, SEGMENTS[:4]))
    second.start()
    go_on.set()
    first.join()
    second.join()
    assert bad.num_requests == 0
    assert holds(fill(cache, good, threads, SEGMENTS[:4]), SEGMENTS[:4])
    assert good.num_requests == 0


FILLER = """
import sys, time, xxhash
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
sys.path.insert(0, sys.argv[2])
import test_node_cache as t
class Remote(t.Remote):
    def fetch(self, offset, num_bytes):
        for chunk in super().fetch(offset, num_bytes):
            yield chunk
            print("some", flush=True)
            time.sleep(float(sys.argv[3]))
with ThreadPoolExecutor(4) as threads:
    path = t.fill(t.NodeCache(Path(sys.argv[1])), Remote(), threads, t.SEGMENTS)
print("done", path)
"""


def start_filler(cache: NodeCache, pause_seconds: float) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", FILLER, str(cache.directory), str(Path(__file__).parent), str(pause_seconds)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


@pytest.mark.process
def test_a_filler_killed_at_any_point_leaves_nothing_that_is_believed(
    cache: NodeCache, threads: ThreadPoolExecutor
) -> None:
    filler = start_filler(cache, 0.002)
    assert filler.stdout
    for _ in range(10):
        filler.stdout.readline()
    filler.send_signal(signal.SIGKILL)
    filler.wait()
    remote = Remote()
    path = fill(cache, remote, threads, SEGMENTS)
    assert path.read_bytes() == BODY


@pytest.mark.process
def test_two_processes_fill_one_object_together(cache: NodeCache) -> None:
    fillers = [start_filler(cache, 0.0) for _ in range(2)]
    ends = [filler.communicate()[0].splitlines() for filler in fillers]
    paths = {Path(lines[-1].removeprefix("done ")) for lines in ends}
    assert [path.read_bytes() for path in paths] == [BODY]
    assert sorted(lines.count("some") > 0 for lines in ends) in ([False, True], [True, True])


def test_what_was_used_longest_ago_goes_first_and_open_maps_stay(tmp_path: Path, threads: ThreadPoolExecutor) -> None:
    cache, remote = NodeCache(tmp_path / "cache", 3 * len(BODY), grace_seconds=0), Remote()
    first = fill(cache, remote, threads, SEGMENTS, "first")
    with first.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped:
        for number in range(6):
            fill(cache, remote, threads, SEGMENTS, f"other{number}")
        assert not first.exists()
        assert mapped[:] == BODY
    assert cache.num_bytes() <= 3 * len(BODY) + 64 * 1024
    fetched = remote.num_bytes
    fill(cache, remote, threads, SEGMENTS, "other5")
    assert remote.num_bytes == fetched


def test_what_is_in_use_is_not_evicted(tmp_path: Path, threads: ThreadPoolExecutor) -> None:
    cache, remote = NodeCache(tmp_path / "cache", len(BODY), grace_seconds=0), Remote()
    other = NodeCache(cache.directory, len(BODY), grace_seconds=0)
    with cache.entry("held") as directory:
        (directory / "data").write_bytes(BODY)
        for number in range(3):
            fill(other, remote, threads, SEGMENTS, f"other{number}")
        assert (directory / "data").exists()
    with cache.entry("for-life", for_life=True) as directory:
        (directory / "data").write_bytes(BODY)
    for number in range(3):
        fill(other, remote, threads, SEGMENTS, f"again{number}")
    assert (directory / "data").exists()


def test_what_a_killed_evictor_left_is_taken_away(tmp_path: Path, threads: ThreadPoolExecutor) -> None:
    cache = NodeCache(tmp_path / "cache", len(BODY))
    (cache.directory / "trash/half").mkdir(parents=True)
    fill(cache, Remote(), threads, SEGMENTS)
    assert list((cache.directory / "trash").iterdir()) == []


def test_a_cache_that_cannot_be_written_says_so(tmp_path: Path, threads: ThreadPoolExecutor) -> None:
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(StoreUnavailable, match=r"Node cache .* cannot keep part-d-.*set HEADRACE_CACHE to another"):
        fill(NodeCache(tmp_path / "cache"), Remote(), threads, SEGMENTS)


@pytest.fixture
def proxy(server) -> Iterator[FaultProxy]:
    with fault_proxy(server.endpoint) as running:
        yield running


def test_a_bit_that_flips_between_server_and_node_is_never_read(make_s3, proxy: FaultProxy) -> None:
    store = make_s3(endpoint=proxy.endpoint)
    store.create("a/b", BODY)
    fault = proxy.add("flip", lambda request: request.method == "GET")
    path = store.local_segments("a/b", digest="d", num_bytes=len(BODY), segments=SEGMENTS)
    assert path.read_bytes() == BODY
    fault.times = -1
    with pytest.raises(HandoffCorrupt, match="fetched twice"):
        store.local_segments("a/b", digest="other", num_bytes=len(BODY), segments=SEGMENTS)


def test_a_directory_is_fetched_once_and_again_only_when_it_changed(make_s3, proxy: FaultProxy) -> None:
    make_s3().create("w/a", b"1")
    store = make_s3(endpoint=proxy.endpoint)
    first = store.local_directory("w")
    before = len(proxy.requests)
    assert make_s3(endpoint=proxy.endpoint).local_directory("w") == first
    assert len(proxy.requests) == before + 1  # the listing
    make_s3().delete("w/a")
    make_s3().create("w/a", b"2")
    assert (store.local_directory("w") / "a").read_bytes() == b"2"
    assert (first / "a").read_bytes() == b"1"


def test_files_of_an_earlier_boot_are_compared_again(make_s3, monkeypatch: pytest.MonkeyPatch) -> None:
    store = make_s3()
    store.create("w/a", b"good")
    path = store.local_path("w/a")
    path.chmod(0o644)
    path.write_bytes(b"lost")
    monkeypatch.setattr("headrace.store.cached_files.boot_identity", lambda: "f" * 32)
    assert store.local_path("w/a").read_bytes() == b"good"
    assert node_cache.boot_identity() != "f" * 32
