"""One batch from its file to its end, in this process: engines that fail, stores that are away, windows that end."""

import asyncio
import json
from collections import Counter, deque
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from headrace.clock import FixedClock
from headrace.errors import HandoffCorrupt, StoreOutage
from headrace.inbox.batches import states
from headrace.inbox.batches.files import Files
from headrace.inbox.batches.kept import Batches, CountsSoFar, Kept
from headrace.inbox.batches.states import Batch
from headrace.serving.daemon_threads import DaemonThreads
from headrace.serving.gateway.batches import job as job_module
from headrace.serving.gateway.batches.job import BatchSite, Job
from headrace.serving.gateway.batches.lines import LineAnswer, LineAsking
from headrace.serving.gateway.batches.places import LinePlaces
from headrace.store.local import LocalStore
from tests.batch_builders import ENDPOINT, make_batch, seal_file

TENANT = "shop"


@dataclass
class ScriptedUnits:
    """Stands for the gateway's units: answers a line by a script, and counts who asks. `answers`: of a custom_id."""

    answers: dict[str, list[LineAnswer]] = field(default_factory=dict)
    asked: Counter[str] = field(default_factory=Counter[str])
    before: Callable[[str], Coroutine[Any, Any, None]] | None = None

    async def ask(self, endpoint: str, body: bytes, *, request_id: str, key: str, session: str) -> LineAnswer:
        name = json.loads(body)["user"]
        if self.before:
            await self.before(name)
        self.asked[name] += 1
        script = self.answers.get(name)
        return script.pop(0) if script else LineAnswer(200, json.dumps({"of": request_id}).encode())


@dataclass
class Bench:
    store: LocalStore
    clock: FixedClock
    units: ScriptedUnits
    kept: Batches
    files: Files
    log: list[dict[str, Any]] = field(default_factory=list)

    @classmethod
    def make(cls, directory: Path) -> "Bench":
        store, clock = LocalStore(directory), FixedClock()
        return cls(store, clock, ScriptedUnits(), Batches(store, "assistant"), Files(store, "assistant", clock))

    def begin(self, num_lines: int, *, seconds: int = 86_400) -> Kept:
        lines = []
        for number in range(num_lines):
            body = {"model": "assistant", "user": f"q-{number}"}
            lines.append({"custom_id": f"q-{number}", "method": "POST", "url": ENDPOINT, "body": body})
        text = "".join(json.dumps(line) + "\n" for line in lines).encode()
        file = seal_file(self.files, TENANT, text, now=self.clock.now(), seconds=86_400)
        return self.kept.create(TENANT, make_batch(file, now=self.clock.now(), seconds=seconds))

    def job(self, batch: str, *, first_part: int = 0) -> Job:
        """A gateway's job on the batch, which knows of nothing but the store."""
        kept = self.kept.find(TENANT, batch)
        assert kept is not None
        site = BatchSite(
            model="assistant",
            kept=self.kept,
            files=self.files,
            asking=cast("LineAsking", self.units),
            counts=CountsSoFar(self.kept),
            lines=LinePlaces(4),
            parts=LinePlaces(2),
            num_parts_max=2,
            lines_a_part=3,
            first_part=first_part,
            clock=self.clock,
            threads=DaemonThreads(2, "batches"),
            record=lambda what, **facts: self.log.append({"what": what, **facts}),
            count=lambda outcome, number: None,
            worked_off=deque(maxlen=9),
        )
        return Job(site, kept)

    def run(self, batch: str) -> Batch:
        async def run() -> Batch:
            job = self.job(batch)
            await job.run()
            return job.batch

        return asyncio.run(run())

    def lines(self, batch: Batch) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """Of the output file, and of the error file."""
        found = []
        for name in (batch.output_file, batch.error_file):
            file = self.files.find(TENANT, name) if name else None
            text = b"".join(self.files.pieces(TENANT, file)) if file else b""
            found.append([json.loads(line) for line in text.splitlines()])
        return found[0], found[1]


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_PAUSE_SECONDS", "_PAUSE_SECONDS_MAX", "_LOOK_SECONDS"):
        monkeypatch.setattr(job_module, name, 0.002)


def ids(lines: list[dict[str, Any]]) -> list[str]:
    return [line["custom_id"] for line in lines]


def test_a_line_that_an_engine_fails_at_is_asked_three_times_and_then_told(tmp_path: Path) -> None:
    bench = Bench.make(tmp_path)
    failure = LineAnswer(502, b'{"error":{"code":"engine_failed"}}')
    bench.units.answers = {"q-1": [failure] * 5, "q-2": [failure, failure]}
    done = bench.run(bench.begin(4).batch.id)
    output, errors = bench.lines(done)
    assert (ids(output), ids(errors)) == (["q-0", "q-2", "q-3"], ["q-1"])
    assert errors[0]["response"]["status_code"] == 502
    assert bench.units.asked == {"q-0": 1, "q-1": 3, "q-2": 3, "q-3": 1}
    assert done.status == "completed"


def test_a_line_that_finds_no_place_or_no_set_is_asked_until_it_does(tmp_path: Path) -> None:
    bench = Bench.make(tmp_path)
    bench.units.answers = {"q-0": [LineAnswer(503, b"{}"), LineAnswer(429, b"{}", 0.001)] * 4}
    done = bench.run(bench.begin(1).batch.id)
    assert (done.status, done.counts.num_completed, bench.units.asked["q-0"]) == ("completed", 1, 9)


def test_a_refusal_is_final(tmp_path: Path) -> None:
    bench = Bench.make(tmp_path)
    bench.units.answers = {"q-0": [LineAnswer(422, b'{"error":{}}', ignored=("top_p",))]}
    done = bench.run(bench.begin(2).batch.id)
    output, errors = bench.lines(done)
    assert (ids(output), errors[0]["response"]["ignored"], bench.units.asked["q-0"]) == (["q-1"], ["top_p"], 1)


def test_a_window_that_ends_keeps_what_is_done_and_names_the_rest(tmp_path: Path) -> None:
    bench = Bench.make(tmp_path)

    async def later(name: str) -> None:
        if name == "q-4":
            bench.clock.advance(100)
        await asyncio.sleep(0.01)

    bench.units.before = later
    done = bench.run(bench.begin(20, seconds=60).batch.id)
    output, errors = bench.lines(done)
    assert done.status == "expired"
    assert {line["error"]["code"] for line in errors} == {"batch_expired"}
    assert sorted(ids(output) + ids(errors)) == sorted(f"q-{number}" for number in range(20))
    assert done.counts.num_expired == len(errors) > 0
    assert "q-4" in ids(output), "what is under way is awaited"


def test_a_cancel_beside_it_is_seen_and_ends_it(tmp_path: Path) -> None:
    bench = Bench.make(tmp_path)
    kept = bench.begin(100)

    async def cancel(name: str) -> None:
        if name == "q-4":
            now = bench.kept.following(kept)
            bench.kept.advance(now, states.cancelled(now.batch, int(bench.clock.now())))
        await asyncio.sleep(0.01)

    bench.units.before = cancel
    done = bench.run(kept.batch.id)
    output, errors = bench.lines(done)
    assert (done.status, {line["error"]["code"] for line in errors}) == ("cancelled", {"batch_cancelled"})
    assert sorted(ids(output) + ids(errors)) == sorted(f"q-{number}" for number in range(100))


def test_a_store_that_is_away_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench.make(tmp_path)
    kept, calls, create = bench.begin(8), Counter[str](), LocalStore.create

    def away_at_first(self: LocalStore, key: str, body: bytes, **how: Any) -> bool:
        calls[key] += 1
        if calls[key] < 3:
            raise StoreOutage("The store does not answer.")
        return create(self, key, body, **how)

    monkeypatch.setattr(LocalStore, "create", away_at_first)
    done = bench.run(kept.batch.id)
    assert (done.status, done.counts.num_completed) == ("completed", 8)
    assert bench.units.asked.total() == 8
    assert any(line["what"] == "batch waits for the store" for line in bench.log)


def test_a_damaged_part_that_somebody_deletes_is_made_again_and_only_that(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench.make(tmp_path)
    kept = bench.begin(9)

    async def up_to_the_files() -> None:
        job = bench.job(kept.batch.id)
        task = asyncio.create_task(job.run())
        while job.batch.status != "finalizing":
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    with monkeypatch.context() as patched:
        patched.setattr(Files, "new", away)
        asyncio.run(up_to_the_files())
    [part] = [file for file in tmp_path.rglob("00000002.json") if "lines" in file.parts]
    part.write_bytes(part.read_bytes().replace(b"q-3", b"q-8"))
    with pytest.raises(HandoffCorrupt, match="Delete it: its lines are made again, and only these"):
        bench.run(kept.batch.id)
    part.unlink()
    done = bench.run(kept.batch.id)
    assert (done.status, ids(bench.lines(done)[0])) == ("completed", [f"q-{number}" for number in range(9)])
    assert [bench.units.asked[f"q-{number}"] for number in range(9)] == [1, 1, 1, 2, 2, 2, 1, 1, 1]


def away(*_: object) -> None:
    raise StoreOutage("The store does not answer.")


@given(
    num_lines=st.integers(1, 14),
    kills=st.lists(st.tuples(st.floats(0.0, 0.03), st.integers(0, 9)), max_size=5),
    beside=st.booleans(),
)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_each_line_has_one_outcome_wherever_gateways_end(
    tmp_path_factory: pytest.TempPathFactory, num_lines: int, kills: list[tuple[float, int]], beside: bool
) -> None:
    """Gateways end in the middle, one after the other, each beside another one or not; the last one ends the batch."""
    bench = Bench.make(tmp_path_factory.mktemp("store"))
    batch = bench.begin(num_lines).batch.id

    async def slow(name: str) -> None:
        await asyncio.sleep(0.002)

    bench.units.before = slow

    async def ended_in_the_middle(seconds: float, first_part: int) -> None:
        jobs = [bench.job(batch, first_part=first_part)]
        jobs += [bench.job(batch)] if beside else []
        tasks = [asyncio.create_task(job.run()) for job in jobs]
        await asyncio.sleep(seconds)
        for task in tasks:
            task.cancel()
        found = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(one is None or isinstance(one, asyncio.CancelledError) for one in found), found

    for seconds, first_part in kills:
        asyncio.run(ended_in_the_middle(seconds, first_part))
    done = bench.run(batch)
    output, errors = bench.lines(done)
    assert (done.status, ids(output), errors) == ("completed", [f"q-{number}" for number in range(num_lines)], [])
    assert bench.kept.open() == []
    assert len(bench.files.names(TENANT)) == 2
