"""The store fails between claim and seal, and the candidate is aborted meanwhile: nothing of it is sealed afterwards.

A worker meets the outage at each of its store operations in turn; another process, whose store works, commits the abort
during it. Then the worker is retried, as Dagster retries it.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from headrace.errors import ObjectMissing, RepinRequired, StoreUnavailable
from headrace.generation.claim_objects import inputs_digest
from headrace.generation.mirroring import MirrorStopped
from headrace.keys import row_id
from headrace.store.local import LocalPart, LocalStore
from headrace.store.node_cache import NodeCache
from headrace.store.s3 import S3Store
from pipelines.object_store import running_object_store
from simulation.faults.proxy import fault_proxy
from tests.generation.builders import TEXTS, ScriptedEngine, Site

# Operations that fail one after another; a retry that comes during the outage fails as well.
NUM_FAILING = 3


class FailingStore(LocalStore):
    """A directory whose operations `fail_at` … `fail_at + NUM_FAILING - 1` fail, counted from `armed` on.

    `is_reply_lost`: the operation is done all the same, and the caller never hears of it.
    """

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.is_armed = False
        self.num_operations = 0
        self.fail_at = -1
        self.is_reply_lost = False
        self.at_outage: Callable[[], Any] = lambda: None

    def _guarded(self, operation: Callable[[], Any]) -> Any:
        if not self.is_armed:
            return operation()
        number = self.num_operations
        self.num_operations += 1
        if not self.fail_at <= number < self.fail_at + NUM_FAILING or self.fail_at < 0:
            return operation()
        if self.is_reply_lost:
            with suppress(ObjectMissing):
                operation()
        if number == self.fail_at:
            self.at_outage()
        raise StoreUnavailable("answers 503 Service Unavailable")

    def create(self, key: str, body: bytes, *, durable: bool = True) -> bool:
        return self._guarded(lambda: super(FailingStore, self).create(key, body, durable=durable))

    def read(self, key: str) -> bytes:
        return self._guarded(lambda: super(FailingStore, self).read(key))

    def exists(self, key: str) -> bool:
        return self._guarded(lambda: super(FailingStore, self).exists(key))

    def children(self, prefix: str) -> list[str]:
        return self._guarded(lambda: super(FailingStore, self).children(prefix))

    def list(self, prefix: str) -> "list[str]":
        return self._guarded(lambda: super(FailingStore, self).list(prefix))

    def delete_prefix(self, prefix: str) -> None:
        return self._guarded(lambda: super(FailingStore, self).delete_prefix(prefix))

    @contextmanager
    def write_part(self, key: str) -> Iterator[LocalPart]:
        self._guarded(lambda: None)
        with super().write_part(key) as part:
            yield part


def retried(attempt: Callable[[], Any]) -> Any:
    """The run that Dagster starts again: each try opens its claim anew."""
    for _ in range(NUM_FAILING + 3):
        try:
            return attempt()
        except (StoreUnavailable, RepinRequired):
            continue
    raise AssertionError("the outage is over, and the run still fails")


def failing_site(directory: Path) -> tuple[Site, FailingStore]:
    store = FailingStore(directory)
    return Site(directory, open_store=lambda _: store), store


def is_sealed(site: Site, candidate: str) -> bool:
    digest = inputs_digest(site.handoffs.open("prompts", site.partition.key))
    settled = [
        site.claims.settlement(claim)
        for claim in site.claims.attempts(site.partition.key, digest)
        if claim.version_set == candidate
    ]
    return any(settlement is not None and settlement.outcome == "sealed" for settlement in settled)


def site_on_trial(directory: Path) -> str:
    """A partition of two micro-batches, and a candidate that gets it; returns the candidate."""
    site = Site(directory)
    site.initialize()
    site.put_prompts(TEXTS[:3])
    return site.start(2)


def num_operations(directory: Path, work: Callable[[Site], Any]) -> int:
    site, store = failing_site(directory)
    store.is_armed = True
    work(site)
    return store.num_operations


@pytest.mark.parametrize("is_reply_lost", [False, True], ids=["refused", "reply lost"])
def test_after_an_outage_during_an_abort_only_the_stable_set_is_sealed(tmp_path: Path, is_reply_lost: bool) -> None:
    def work(site: Site) -> None:
        site.generate(site.open_claim("run-1"))

    site_on_trial(tmp_path / "whole")
    num = num_operations(tmp_path / "whole", work)
    assert num > 30
    sealed_before = []
    for fail_at in range(int(is_reply_lost), num, 2):
        directory = tmp_path / f"outage-{fail_at:03d}"
        candidate = site_on_trial(directory)
        site, store = failing_site(directory)
        other = Site(directory)
        store.fail_at, store.is_reply_lost = fail_at, is_reply_lost

        def abort(other: Site = other, candidate: str = candidate) -> None:
            sealed_before.append(is_sealed(other, candidate))
            other.abort(2)

        store.at_outage = abort
        store.is_armed = True
        retried(lambda site=site: work(site))
        store.is_armed = False

        versions = [
            other.handoffs.open("generated_content", other.partition.key, number)
            for number in other.handoffs.versions("generated_content", other.partition.key)
        ]
        made_by = {version.attributes["version_set"] for version in versions}
        expected = candidate if sealed_before[-1] else other.state.stable
        assert made_by == {expected}, f"outage at operation {fail_at}"
        rows = versions[-1].table().to_pylist()
        assert [row["row_id"] for row in rows] == [row_id(row["prompt_id"], expected, 0) for row in rows]
    assert True in sealed_before
    assert False in sealed_before


def test_after_an_outage_during_an_abort_no_mirror_of_the_candidate_is_sealed(tmp_path: Path) -> None:
    def prepare(directory: Path) -> str:
        site = Site(directory)
        site.initialize()
        site.put_prompts(TEXTS[:3])
        site.generate()
        return site.start(2, weight=0.1)

    candidate = prepare(tmp_path / "whole")
    num = num_operations(tmp_path / "whole", lambda site: site.mirror(candidate))
    outcomes = []
    for fail_at in range(0, num, 3):
        directory = tmp_path / f"outage-{fail_at:03d}"
        candidate = prepare(directory)
        site, store = failing_site(directory)
        other = Site(directory)
        store.fail_at = fail_at
        before: list[bool] = []

        def abort(other: Site = other, before: list[bool] = before) -> None:
            settled = [key for key in other.objects.list("claims") if "/mirrors/" in key and ".settled." in key]
            before.append(bool(settled))
            other.abort(2)

        store.at_outage = abort
        store.is_armed = True
        with suppress(MirrorStopped):
            retried(lambda site=site, candidate=candidate: site.mirror(candidate))
        store.is_armed = False
        found = other.handoffs.find("mirrored_content", other.partition.key, version_set=candidate)
        outcomes.append(found is not None)
        assert (found is not None) == before[0], f"outage at operation {fail_at}"
        assert other.handoffs.versions("generated_content", other.partition.key) == [1]
    assert set(outcomes) == {False, True}


@pytest.mark.process
def test_a_store_that_answers_503_between_the_rows_and_the_seal(tmp_path: Path) -> None:
    """A real S3 server behind a real proxy: all rows are made, then nothing goes through until the abort is there."""
    with running_object_store(tmp_path / "weed") as server, fault_proxy(server.endpoint) as proxy:

        def open_at(endpoint: str) -> Callable[[Path], S3Store]:
            options = {
                "endpoint": endpoint,
                "access_key_id": server.environment["AWS_ACCESS_KEY_ID"],
                "secret_access_key": server.environment["AWS_SECRET_ACCESS_KEY"],
                "region": server.environment["AWS_REGION"],
                "allow_http": "true",
            }
            cache = NodeCache(tmp_path / "cache")
            return lambda _: S3Store(server.bucket, "site", cache=cache, options=options, patience_seconds=0.3)

        healthy = Site(tmp_path, open_store=open_at(server.endpoint))
        healthy.initialize()
        healthy.put_prompts()
        candidate = healthy.start(2)
        site = Site(tmp_path, open_store=open_at(proxy.endpoint))
        engine = _Outage(lambda: proxy.add("unavailable", lambda request: "journal" in request.path, times=-1))
        with pytest.raises(StoreUnavailable, match="answers 503"):
            site.generate(site.open_claim(), engine=engine)
        healthy.abort(2)
        proxy.faults.clear()
        with pytest.raises(RepinRequired):
            site.generate(site.claims.attempts(site.partition.key, site.open_claim().inputs_digest)[0])
        content = site.generate(site.open_claim()).content
        assert content.attributes["version_set"] == site.state.stable != candidate
        assert site.handoffs.versions("generated_content", site.partition.key) == [1]


class _Outage(ScriptedEngine):
    """The store goes down while the last batch is made."""

    def __init__(self, begins: Callable[[], Any]) -> None:
        super().__init__()
        self.begins = begins

    def generate(self, requests: Sequence[Any]) -> list[Any]:
        if len(self.batches) == 3:
            self.begins()
        return super().generate(requests)
