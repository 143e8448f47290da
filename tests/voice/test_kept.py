"""Calls outlive their process: in the log, in the store, and with one gateway at a time."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from datetime import UTC
from pathlib import Path
from typing import Any

import pytest

from headrace.clock import FixedClock
from headrace.erasure.deciding import decide, plan
from headrace.erasure.scope import Asked
from headrace.handoff.erasures import ErasedData, data_of
from headrace.inbox.intake import Intake
from headrace.inbox.sealing import Sealer
from headrace.serving.daemon_threads import DaemonThreads
from headrace.voice.erasing import calls_in, ended_calls, erase_calls, remaining_calls
from headrace.voice.kept import CallStore, Source, TakenCall, call_name
from headrace.voice.segments import CallErased, CallTaken, SegmentWriter, segment_chain
from headrace.voice.turns import CallState, TurnEvent, applied
from tests.handoff.simulated_store import MemoryStore
from tests.serving.builders import TroubledStore

CALL = call_name("key", "sess_1")
HELLO = TurnEvent(kind="said", item="u1", text="Hello")
BEGIN = TurnEvent(kind="answering", item="a1", generation=1, ms=1)
ONE = TurnEvent(kind="sentence", item="a1", text="One.", ms=500, generation=1)


@contextmanager
def gateway(store: MemoryStore, directory: Path) -> Iterator[tuple[CallStore, Intake]]:
    """Within a running loop."""
    clock, threads = store.clock, DaemonThreads(2, "calls")

    def sealer_of(nonce: str) -> Sealer:
        return Sealer(store, nonce, UTC, clock)

    def record(what: str, /, **facts: Any) -> None:
        raise AssertionError(f"{what}: {facts}")

    with closing(Intake(directory, {}, sealer_of, clock=clock, record=record)) as intake:
        intake.start()
        segments = SegmentWriter(store, "mill", threads=threads)
        calls = CallStore(
            store=store,
            service="mill",
            log=intake,
            reader=intake.reader(),
            segments=segments,
            threads=threads,
            clock=clock,
        )
        yield calls, intake


def taker_is_killed_at_once(calls: CallStore) -> None:
    """After its first object: it had read nothing yet."""
    chain = calls.chain(CALL)
    number, kept = chain.last() or (0, None)
    assert kept is not None
    source = Source(writer="killed", segment=0, log="another", epoch=kept.epoch + 1)
    chain.create(number + 1, replace(kept, sources=(*kept.sources, source)))


async def until(is_so: Callable[[], bool]) -> None:
    for _ in range(200):
        if is_so():
            return
        await asyncio.sleep(0.05)
    raise AssertionError("Not within ten seconds.")


async def found_at(store: MemoryStore, directory: Path) -> CallState:
    with gateway(store, directory) as (calls, _):
        return (await calls.take(CALL)).state


async def say(taken: TakenCall, state: CallState, *events: TurnEvent) -> CallState:
    state = applied(state, events)
    await taken.keep(events, state)
    return state


def test_who_takes_a_call_finds_what_was_kept(tmp_path: Path) -> None:
    store = MemoryStore(FixedClock())

    async def work() -> None:
        with gateway(store, tmp_path / "a") as (calls, _):
            taken = await calls.take(CALL)
            assert taken.state == CallState()
            state = await say(taken, taken.state, HELLO, BEGIN)
            state = await say(taken, state, ONE)
        with gateway(store, tmp_path / "b") as (others, _):
            assert (await others.take(CALL)).state == state
            assert (await others.take(call_name("another key", "sess_1"))).state == CallState()

    asyncio.run(work())


def test_a_gateway_whose_call_was_taken_can_keep_nothing_more_of_it(tmp_path: Path) -> None:
    store = MemoryStore(FixedClock())

    async def work() -> None:
        with gateway(store, tmp_path / "a") as (calls, _), gateway(store, tmp_path / "b") as (others, _):
            first = await calls.take(CALL)
            state = await say(first, first.state, HELLO)
            second = await others.take(CALL)
            with pytest.raises(CallTaken, match="somebody came back with its session"):
                await say(first, state, BEGIN)
            with pytest.raises(CallTaken):
                first.keep((ONE,), applied(state, [BEGIN, ONE]))
            await say(second, second.state, BEGIN)
            assert (await others.take(CALL)).state.generation == 1

    asyncio.run(work())


@pytest.mark.parametrize("fates", [["refused"] * 3, ["lost"], ["told there"]])
def test_a_store_that_fails_or_loses_replies_costs_no_turn(tmp_path: Path, fates: list[str]) -> None:
    store = TroubledStore()

    async def work() -> None:
        with gateway(store, tmp_path / "a") as (calls, _):
            taken = await calls.take(CALL)
            state = await say(taken, CallState(), HELLO)
            store.fates.extend(fates)
            for event in (BEGIN, ONE):
                state = await say(taken, state, event)
            assert bool(calls.segments.told) == (fates != ["told there"])
        store.fates.clear()
        # The process is gone; the same log, started again, has it all, and from then on every gateway.
        assert await found_at(store, tmp_path / "a") == state
        assert await found_at(store, tmp_path / "b") == state

    asyncio.run(work())


def test_who_takes_a_call_while_another_does_reads_all_that_was_said_before(tmp_path: Path) -> None:
    store = MemoryStore(FixedClock())

    async def work() -> None:
        with gateway(store, tmp_path / "a") as (calls, _):
            state = await say(await calls.take(CALL), CallState(), HELLO, BEGIN)
            taker_is_killed_at_once(calls)
        for name in ("b", "c"):
            assert await found_at(store, tmp_path / name) == state

    asyncio.run(work())


def test_the_log_forgets_what_the_store_has_for_good(tmp_path: Path) -> None:
    store = MemoryStore(FixedClock())

    async def work() -> None:
        with gateway(store, tmp_path / "a") as (calls, intake):
            taken = await calls.take(CALL)
            state = await say(taken, taken.state, HELLO)
            kept = intake.reader()
            assert len(kept.turns(CALL, 1)) == 1
            await say(taken, state, BEGIN)
            await taken.close()
            await until(lambda: not kept.turns(CALL, 1))

    asyncio.run(work())


def test_a_call_leaves_few_objects_and_goes_a_day_after_its_session(tmp_path: Path) -> None:
    clock = FixedClock()
    store = MemoryStore(clock)

    async def work() -> None:
        with gateway(store, tmp_path / "a") as (calls, _):
            taken = await calls.take(CALL)
            state = taken.state
            for place in range(20):
                state = await say(taken, state, TurnEvent(kind="said", item=f"u{place}", text="Hello"))
            await taken.close()
            assert len(calls.chain(CALL).made()) <= 5
            assert (await calls.take(CALL)).state == state
            assert calls.sweep(session_seconds=600.0) == 0
            clock.advance(24 * 3600.0 + 601)
            assert calls.sweep(session_seconds=600.0) == 1
            assert calls.chain(CALL).made() == []

    asyncio.run(work())


def decided(store: MemoryStore) -> ErasedData:
    asked = Asked(kind="call", name="sess_1", key="key")
    return data_of(store, decide(store, store.clock, plan(store, store.clock, asked), by="ana", reason="ticket").number)


def test_a_call_that_is_erased_while_a_gateway_has_it_is_written_nowhere_any_more(tmp_path: Path) -> None:
    store = TroubledStore()
    other = call_name("key", "sess_2")

    async def work() -> None:
        with gateway(store, tmp_path / "a") as (calls, intake):
            taken, left = await calls.take(CALL, "key"), await calls.take(other, "key")
            state = await say(taken, CallState(), HELLO)
            data = decided(store)
            # What is said now waits for a store that fails; others' words do, too.
            store.fates.extend(["refused"])
            state = await say(taken, state, BEGIN)
            await say(left, CallState(), HELLO)
            await taken.erase()
            await calls.segments.erase(lambda call: data.has("call", call))
            await asyncio.wrap_future(intake.erase(1, data))
            erase_calls(store, data)
            await taken.close()
            with pytest.raises(CallErased):
                taken.keep((ONE,), applied(state, [ONE]))
            with pytest.raises(CallErased, match="its session has no further one: begin another session"):
                await calls.take(CALL, "key")
            chain = segment_chain(store, "mill", calls.segments.writer)
            await until(lambda: any(row[0] == other for number in chain.made() for row in chain.read(number).rows))
            assert remaining_calls(store, data) == []
            assert intake.reader().turns(CALL, 1) == []
            assert [(one.call, one.key) for one in calls_in(store)] == [(other, "key")]

    asyncio.run(work())


def test_a_killed_gateways_log_forgets_calls_that_have_gone_on_elsewhere_or_are_over(tmp_path: Path) -> None:
    store = MemoryStore(clock := FixedClock())

    async def work() -> None:
        with gateway(store, tmp_path / "a") as (calls, intake):
            await say(await calls.take(CALL, "key"), CallState(), HELLO, BEGIN)
            turns = intake.reader().calls()
            assert turns == [(CALL, 1, 1)]
            assert ended_calls(store, intake.nonce, turns) == {}
            log = intake.nonce
        with gateway(store, tmp_path / "b") as (others, intake):
            await say((taken := await others.take(CALL, "key")), taken.state, ONE)
            assert ended_calls(store, log, turns) == {CALL: (1, 1)}
            assert ended_calls(store, intake.nonce, intake.reader().calls()) == {}
            clock.advance(25 * 3_600.0)
            assert others.sweep(session_seconds=600.0) == 1
            assert ended_calls(store, intake.nonce, intake.reader().calls()) == {CALL: (2, 2)}

    asyncio.run(work())
