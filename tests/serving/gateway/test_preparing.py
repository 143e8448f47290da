"""A gateway that prepares sets: whatever an engine raises is its word on the set, said once, and ends nothing else."""

import asyncio
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.clock import FixedClock
from headrace.engines.base import Answer, Engine, EngineFailed, Turn
from headrace.errors import EngineUnavailable, HandoffCorrupt, HeadraceError, InvalidInput
from headrace.rollout.plan import LivePlan
from headrace.rollout.preparation import preparations
from headrace.serving.gateway.metrics import Metrics
from headrace.serving.gateway.prepared_sets import PreparedSets
from headrace.serving.gateway.records import Records
from headrace.serving.gateway.rollout_watch import RolloutWatch
from headrace.serving.plan_lease import PlanLease
from headrace.version_sets.media_settings import Picture
from headrace.version_sets.sets import EngineSpec, Member, VersionSet, VersionSets
from tests.handoff.simulated_store import MemoryStore
from tests.serving.builders import SERVICE, Plans, make_service

STABLE_VERSION, PROPOSED_VERSION = "1", "2"


class TemplateError(Exception):
    """A library's error, not one of ours."""


FAILURES: list[Exception] = [
    TemplateError("System role not supported"),
    ValueError("Unknown format code 'd' for object of type 'str'"),
    MemoryError(),
    KeyError("width"),
    HandoffCorrupt("Weights d2 are damaged."),
    EngineFailed("The engine failed."),
    OSError(28, "No space left on device"),
    RecursionError("maximum recursion depth exceeded"),
]
# Where an engine may fail: when it is opened, at its first prompt, when it is closed.
PLACES = ("open", "answer", "close")


class FailingEngine(Engine):
    """An engine of the proposed version that fails where it is told to."""

    name = "engine"

    def __init__(self, failures: dict[str, Exception]) -> None:
        self.failures = failures
        self.is_closed = False

    async def answer(self, turn: Turn) -> Answer:
        self._fail("answer")
        return Answer(text="Hello.", finish_reason="stop", num_prompt_tokens=1, num_output_tokens=1, replica="engine")

    async def close(self) -> None:
        self.is_closed = True
        self._fail("close")

    def _fail(self, place: str) -> None:
        if place in self.failures:
            raise self.failures[place]


class Gateway:
    """What watches, prepares and closes sets at one gateway, over a store in memory."""

    def __init__(
        self,
        failures: dict[str, Exception],
        file: Path,
        open_engine: Callable[..., Any] | None = None,
        prepare_seconds: float = 60.0,
    ) -> None:
        self.failures = failures
        self.engines: list[FailingEngine] = []
        self.store: Any = MemoryStore(FixedClock())
        self.service = make_service(rollout=LivePlan(prepare_seconds=prepare_seconds))
        self.stable, self.proposed = (self._set(version) for version in (STABLE_VERSION, PROPOSED_VERSION))
        for one in (self.stable, self.proposed):
            VersionSets(self.store).put(one)
        self.plans = Plans(self.store)
        self.plans.initialize(self.stable.id)
        self.records = Records(file, gateway="g1")
        parts: Any = {"records": self.records, "clock": FixedClock()}
        self.sets = PreparedSets(
            self.service,
            self.store,
            open_engine or self._open,
            metrics=Metrics(),
            records=self.records,
            clock=FixedClock(),
        )
        self.lease = PlanLease(self.store, SERVICE, "salt")
        self.watch = RolloutWatch(self.store, self.lease, self.sets, node="node", **parts)

    def propose(self) -> int:
        return self.plans.add("proposed", version_set=self.proposed.id, weights_digest="weights").number

    def _open(self, member: Member, spec: EngineSpec) -> FailingEngine:
        engine = FailingEngine(self.failures if member.model_version == PROPOSED_VERSION else {})
        engine._fail("open")
        self.engines.append(engine)
        return engine

    def _set(self, version: str) -> VersionSet:
        one = self.service.version_set({})
        member = replace(one.members[0], model_version=version, weights_digest=f"weights {version}")
        return replace(one, members=(member,))


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.01)


@settings(derandomize=True)
@given(failures=st.dictionaries(st.sampled_from(PLACES), st.sampled_from(FAILURES)))
def test_a_proposal_ends_in_one_record_whatever_its_engine_raises(
    failures: dict[str, Exception], tmp_path_factory: pytest.TempPathFactory
) -> None:
    async def prepare() -> None:
        gateway = Gateway(failures, tmp_path_factory.mktemp("gateway") / "log")
        asyncio.get_running_loop().set_exception_handler(lambda _, context: unseen.append(context))
        proposal = gateway.propose()
        gateway.lease.start()
        watching = asyncio.create_task(gateway.watch.run())
        await until(lambda: preparations(gateway.store, SERVICE, proposal))
        await until(lambda: gateway.sets.get(gateway.stable.id))
        [record] = preparations(gateway.store, SERVICE, proposal)
        assert record.ok == (not failures.keys() & {"open", "answer"})
        if not record.ok:
            first = failures.get("open", failures.get("answer"))
            assert record.error
            assert isinstance(first, HeadraceError) or type(first).__name__ in record.error
        gateway.plans.add("withdrawn", version_set=gateway.proposed.id)
        await until(lambda: gateway.sets.ids == {gateway.stable.id})
        assert not watching.done()
        watching.cancel()
        gateway.lease.close()
        await gateway.sets.close()
        assert all(engine.is_closed for engine in gateway.engines)
        gateway.records.close()

    unseen: list[object] = []
    asyncio.run(prepare())
    assert unseen == []


def test_a_load_that_hangs_is_given_up_and_holds_up_no_other(tmp_path: Path) -> None:
    is_over = threading.Event()
    late: list[FailingEngine] = []

    def open_engine(member: Member, spec: EngineSpec) -> Any:
        engine = FailingEngine({})
        if member.model_version == PROPOSED_VERSION:
            is_over.wait()
            late.append(engine)
        return engine

    async def load() -> None:
        # Long enough for the stable set on a busy machine.
        gateway = Gateway({}, tmp_path / "log", open_engine, prepare_seconds=2.0)
        with pytest.raises(EngineUnavailable, match=r"writer \(tiny 2\) was not loaded within 2 s"):
            await gateway.sets.ensure(gateway.proposed.id)
        assert (await gateway.sets.ensure(gateway.stable.id)).id == gateway.stable.id
        is_over.set()
        await until(lambda: late and late[0].is_closed)
        gateway.records.close()

    asyncio.run(load())


def test_a_set_that_a_library_refuses_is_refused_in_words(tmp_path: Path) -> None:
    async def load() -> None:
        gateway = Gateway({"open": TemplateError("System role not supported")}, tmp_path / "log")
        with pytest.raises(InvalidInput, match="cannot be loaded: TemplateError: System role not supported"):
            await gateway.sets.ensure(gateway.proposed.id)
        gateway.records.close()

    asyncio.run(load())


def test_a_set_that_makes_something_else_than_the_service_is_not_loaded(tmp_path: Path) -> None:
    """The service's file became another one, and its rollout still has the set of the former."""

    async def scenario() -> None:
        gateway = Gateway({}, tmp_path / "log")
        painter = replace(gateway.stable.members[0], decoding=None, picture=Picture(width=32, height=32))
        painting = replace(gateway.stable, members=(painter,))
        VersionSets(gateway.store).put(painting)
        with pytest.raises(InvalidInput, match="writer of version set .* makes image, and in this gateway's service"):
            await gateway.sets.ensure(painting.id)
        assert gateway.engines == []
        assert (await gateway.sets.ensure(gateway.stable.id)).roles.keys() == {"writer"}
        await gateway.sets.close()
        gateway.records.close()

    asyncio.run(scenario())
