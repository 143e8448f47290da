"""An S3 server that fails: replies lost, 503s, breaks; and what is said when it does not get better."""

import os
from collections.abc import Iterator

import pytest

from headrace.errors import ObjectMissing, StoreUnavailable
from headrace.store.objects import create_json
from pipelines.object_store import ObjectStoreServer
from simulation.faults.proxy import Failure, FaultProxy, Request, fault_proxy

BIG = bytes(range(256)) * 80_000


@pytest.fixture
def proxy(server: ObjectStoreServer) -> Iterator[FaultProxy]:
    with fault_proxy(server.endpoint) as running:
        yield running


def is_write(request: Request) -> bool:
    return request.method in {"PUT", "POST"}


def test_a_create_whose_reply_is_lost_is_settled_by_its_nonce(make_s3, proxy: FaultProxy) -> None:
    store = make_s3(endpoint=proxy.endpoint)
    proxy.add("lose_reply", is_write, times=2)
    assert create_json(store, "claims/one.json", {"set": "s1"}).won
    assert not create_json(store, "claims/one.json", {"set": "s2"}).won


def test_a_create_whose_reply_is_lost_never_has_two_winners(make_s3, proxy: FaultProxy) -> None:
    store, other = make_s3(endpoint=proxy.endpoint), make_s3()
    proxy.add("lose_reply", is_write)
    assert not store.create("claims/one.json", b"mine")
    assert not other.create("claims/one.json", b"theirs")
    assert other.read("claims/one.json") == b"mine"


@pytest.mark.parametrize("which", ["small part", "begin", "piece", "complete"])
@pytest.mark.parametrize("kind", ["lose_reply", "unavailable"])
def test_a_part_arrives_whole_through_a_fault(make_s3, proxy: FaultProxy, kind: Failure, which: str) -> None:
    matches = {
        "small part": is_write,
        "begin": lambda request: request.method == "POST" and "uploads" in request.path,
        "piece": lambda request: request.method == "PUT" and "partNumber=2" in request.path,
        "complete": lambda request: request.method == "POST" and "uploadId" in request.path,
    }[which]
    body = b"small" if which == "small part" else BIG
    fault = proxy.add(kind, matches)
    with make_s3(endpoint=proxy.endpoint).write_part("parts/n/one") as part:
        part.write(body)
    assert fault.times == 0
    assert make_s3().read("parts/n/one") == body


@pytest.mark.parametrize("kind", ["lose_reply", "unavailable", "break_body"])
def test_a_read_goes_on_through_a_fault(make_s3, proxy: FaultProxy, kind: Failure) -> None:
    make_s3().create("a/b", BIG[:1_000_000])
    store = make_s3(endpoint=proxy.endpoint)
    for read in (
        lambda: store.read("a/b"),
        lambda: bytes(store.read_ranges("a/b", [(0, 1_000_000)])[0]),
        lambda: store.local_path("a/b").read_bytes(),
    ):
        proxy.add(kind, lambda request: request.method == "GET")
        assert read() == BIG[:1_000_000]
    proxy.add("unavailable", times=2)
    assert store.list("a") == ["a/b"]


def test_a_slow_server_is_waited_for(make_s3, proxy: FaultProxy) -> None:
    store = make_s3(endpoint=proxy.endpoint)
    proxy.add("delay", seconds=0.5, times=2)
    assert store.create("a/b", b"1")
    assert store.read("a/b") == b"1"


def test_an_upload_that_is_given_up_leaves_no_pieces_behind(make_s3, proxy: FaultProxy) -> None:
    with pytest.raises(KeyboardInterrupt), make_s3(endpoint=proxy.endpoint).write_part("parts/n/one") as part:  # noqa: PT012
        part.write(BIG)
        raise KeyboardInterrupt
    # A piece that was given up on its way may reach the proxy after that, and finds no upload.
    assert "DELETE" in [request.method for request in proxy.requests if "uploadId" in request.path]


def test_a_server_that_stays_down_is_one_sentence(make_s3, proxy: FaultProxy) -> None:
    store = make_s3(endpoint=proxy.endpoint, patience_seconds=0.3)
    proxy.add("unavailable", times=-1)
    with pytest.raises(StoreUnavailable, match=r"cannot serve s3://.*/a/b: http.* answers 503 Service Unavailable"):
        store.create("a/b", b"1")
    with pytest.raises(StoreUnavailable, match="answers 503"), store.write_part("parts/n/one") as part:
        part.write(BIG)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"bucket": "wrong"}, r"there is no such bucket at http.*Make it, or correct HEADRACE_STORE\.$"),
        ({"secret_access_key": "wrong"}, r"the secret key does not fit .*Correct AWS_SECRET_ACCESS_KEY\.$"),
        ({"access_key_id": "wrong"}, r"does not know this access key\. Correct AWS_ACCESS_KEY_ID\.$"),
        ({"endpoint": "http://127.0.0.1:9"}, r"http://127\.0\.0\.1:9 does not answer\. Check AWS_ENDPOINT_URL"),
        ({"allow_http": "false"}, r"cannot be asked\. For an http:// address set AWS_ALLOW_HTTP=true\.$"),
    ],
    ids=["bucket", "secret", "access key", "endpoint", "http"],
)
def test_a_wrong_setting_says_which_it_is(make_s3, changes: dict[str, str], sentence: str) -> None:
    store = make_s3(patience_seconds=0.2, **changes)
    for use in (
        lambda: store.create("a/b", b""),
        lambda: store.read("a/b"),
        lambda: store.exists("a/b"),
        lambda: store.list("a"),
    ):
        with pytest.raises(StoreUnavailable, match=sentence):
            use()


def test_a_missing_object_is_named(make_s3) -> None:
    store = make_s3()
    for use in (store.read, store.local_path):
        with pytest.raises(ObjectMissing, match=r"s3://headrace/.*/claims/x does not exist\."):
            use("claims/x")


@pytest.mark.process
def test_a_child_forked_after_use_is_refused_and_does_not_hang(make_s3) -> None:
    store = make_s3()
    store.create("a/b", b"1")
    readable, writable = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            store.read("a/b")
        except StoreUnavailable as error:
            os.write(writable, str(error).encode())
        os._exit(0)
    os.close(writable)
    os.waitpid(pid, 0)
    assert b"this process was forked from one that had used S3" in os.read(readable, 10_000)
    os.close(readable)
    assert store.read("a/b") == b"1"
