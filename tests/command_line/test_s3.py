"""The same commands on a real S3 server."""

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from headrace.handoff.versions import HandoffStore
from headrace.store.node_cache import NodeCache
from headrace.store.objects import new_nonce
from headrace.store.s3 import S3Store
from pipelines.object_store import ObjectStoreServer, running_object_store
from tests.command_line.builders import make_documents, publish, run
from tests.erasure.builders import Inbox, personal, secret_of
from tests.erasure.clients import make_clients, secret

pytestmark = pytest.mark.process


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectStoreServer]:
    with running_object_store(tmp_path_factory.mktemp("seaweedfs")) as running:
        yield running


@pytest.fixture
def s3(server: ObjectStoreServer, tmp_path: Path) -> S3Store:
    return S3Store(server.bucket, new_nonce(), cache=NodeCache(tmp_path / "cache"), options=server.options())


def test_a_version_on_s3_is_listed_shown_compared_exported_and_collected(
    s3: S3Store, server: ObjectStoreServer, tmp_path: Path
) -> None:
    for edited in range(3):
        publish(HandoffStore(s3), "documents", "all", make_documents(50, edited=range(edited)))
    around = {"store": s3.url, "env": {**server.environment, "HEADRACE_CACHE": str(tmp_path / "cache")}}
    listed = json.loads(run("handoff", "ls", "--json", **around).stdout)
    assert [one["version"] for one in listed["versions"]] == [1, 2, 3]
    assert "doc-00001" in run("handoff", "show", "documents", **around).stdout
    assert "changed  2 (text: 2)" in run("handoff", "diff", "documents", "all", "v1", "v3", **around).stdout
    assert run("handoff", "export", "documents", "all", tmp_path / "x.jsonl", **around).exit_code == 0
    assert len((tmp_path / "x.jsonl").read_text().splitlines()) == 50
    time.sleep(1.1)  # S3 dates objects in whole seconds; what was superseded within this one is young
    collected = run("gc", "--yes", "--without-dagster", "--keep", "1", "--grace", "0", **around)
    assert "Collected 2 versions" in collected.stdout, collected.stderr
    assert run("handoff", "verify", "--all-versions", **around).exit_code == 0


def test_verify_reads_the_server_and_not_the_cache(s3: S3Store, server: ObjectStoreServer, tmp_path: Path) -> None:
    handoff = publish(HandoffStore(s3), "documents", "all", make_documents(50))
    handoff.table()  # the cache has all of it
    part = handoff.manifest.parts[0]
    body = bytearray(s3.read(part.key))
    body[part.segments_of([1])[-2].offset] ^= 1
    s3.delete(part.key)
    with s3.write_part(part.key) as writer:
        writer.write(body)
    around = {"store": s3.url, "env": {**server.environment, "HEADRACE_CACHE": str(tmp_path / "cache")}}
    result = run("handoff", "verify", **around)
    assert (result.exit_code, "PartFlipped" in result.stdout) == (1, True)
    s3.delete(part.key)
    assert "PartMissing" in run("handoff", "verify", **around).stdout


def test_a_server_that_does_not_know_the_bucket_is_a_sentence(server: ObjectStoreServer) -> None:
    result = run("handoff", "ls", store="s3://nowhere/store", env=server.environment)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "Error: " in result.stderr
    assert "Traceback" not in result.stderr


def test_an_erasure_leaves_nothing_in_the_bucket_and_tells_of_the_caches(
    s3: S3Store, server: ObjectStoreServer, tmp_path: Path
) -> None:
    inbox = Inbox(tmp_path / "unused", open_store=lambda _: s3)
    inbox.seal([personal(name) for name in ("a", "b")])
    inbox.make()
    around = {"store": s3.url, "env": {**server.environment, "HEADRACE_CACHE": str(tmp_path / "cache")}}

    erased = run("erase", "--event", "b", "--campaign", "orders", "-m", "ticket", "--yes", "--wait", "0", **around)

    assert erased.exit_code == 0, erased.output
    assert f"caches of machines that read this store ({tmp_path / 'cache'} on this one)" in erased.stdout
    holding = {name: [key for key in s3.list("handoff") if secret_of(name).encode() in s3.read(key)] for name in "ab"}
    assert holding["a"]
    assert holding["b"] == []
    assert run("erase", "--verify", "1", **around).exit_code == 0


def test_a_clients_calls_files_and_batches_leave_the_bucket(
    s3: S3Store, server: ObjectStoreServer, tmp_path: Path
) -> None:
    ended, _ = make_clients(s3)
    around = {"store": s3.url, "env": {**server.environment, "HEADRACE_CACHE": str(tmp_path / "cache")}}
    words = ("-m", "ticket", "--yes", "--wait", "0")
    for asked in (("--tenant", "ada-ltd"), ("--event", "id-bob-1", "--batch", ended.batch.id), ("--call", "sess-1")):
        erased = run("erase", *asked, *words, **around)
        assert erased.exit_code == 0, erased.output

    bodies = {key: s3.read(key) for root in s3.children("") for key in s3.list(root)}
    for gone in ("ada-ltd", secret("bob-1"), secret("bob-sess-1")):
        assert [key for key, body in bodies.items() if gone.encode() in body or gone in key] == [], gone
    assert [key for key, body in bodies.items() if secret("bob-2").encode() in body]
    for number in (1, 2, 3):
        assert run("erase", "--verify", str(number), **around).exit_code == 0
