"""Bulk beside live on one host: how much later live answers come, and how much of what is left bulk gets.

A live client and a bulk client ask one model, of one version set, so they share one copy: first live alone, then bulk
alone, then both, in turns. Two real engines (a writer of transformers, a painter of diffusers), one after the other,
and eight at once whose steps take a stated time and no core. A live client asks, gets its answer, and pauses for a
drawn time; a bulk client has always one batch with the host. What is left for bulk is the time in which live work,
at its pace alone, would not need the model.
"""

import asyncio
import random
import statistics
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.measuring import Bars, at_least, at_most, in_turns, print_table, rounded
from benchmarks.parts import Options, Outcome
from benchmarks.residency import timed
from benchmarks.residency.hosts import EngineHost, engine_host, opened, with_entry_point, with_weights
from benchmarks.residency.members import member_of
from headrace.engines.asking import answer_of, answers_of, close, made_of
from headrace.engines.base import Engine, LoadedModel, Message, NoAnswer, Turn
from headrace.engines.host.floor import Floor
from headrace.engines.media import MediaEngine, MediaTurn
from headrace.engines.ours import DIFFUSERS, TRANSFORMERS
from headrace.store.local import LocalStore
from headrace.version_sets.media_settings import Picture
from headrace.version_sets.sets import Decoding
from simulation.tiny_model import build_tiny_model
from simulation.tiny_pipelines import build_pixel_pipeline

_ROUNDS, _PHASE_SECONDS = 4, 10.0
# A live client's mean pause, in answers: the model is asked for by it for a third of the time.
_PAUSE = 2.0
_BATCH_ROWS, _LIVE_TOKENS, _BULK_TOKENS = 8, 64, 64
_NUM_TIMED, _TIMED_STEPS, _TIMED_STEP_SECONDS = 8, 20, 0.01
_PHASES = ("live", "bulk", "both")


@dataclass(frozen=True, kw_only=True)
class Pair:
    """One model, as its live client and its bulk client see it. `live` makes one answer, `bulk` a batch."""

    name: str
    engines: Sequence[LoadedModel]
    live: Callable[[int], Awaitable[object]]
    bulk: Callable[[int], Awaitable[int]]


@dataclass
class Seen:
    """Of one phase, over all rounds. Seconds."""

    latencies: list[float] = field(default_factory=list)
    num_rows: int = 0
    seconds: float = 0.0

    @property
    def p99(self) -> float:
        return sorted(self.latencies)[max(0, -(-99 * len(self.latencies) // 100) - 1)]

    @property
    def rows_a_second(self) -> float:
        return self.num_rows / self.seconds


def run(given: Options, directory: Path) -> Outcome:
    store = LocalStore(directory / "store")
    rows: list[list[str]] = []
    body: dict[str, dict[str, float]] = {}
    environment = with_entry_point(directory / "site-packages", "timed", "benchmarks.residency.timed:KIND")
    with engine_host(directory, store, memory_mib=12_000, environment=environment) as host:
        cases = {"writer": [_writer], "painter": [_painter], "eight timed": [_timed(n) for n in range(_NUM_TIMED)]}
        for name, makers in cases.items():
            pairs = [make(host, store, directory) for make in makers]
            body[name] = asyncio.run(_measured(name, host, pairs))
            rows.append([name, *(f"{value:.3g}" for value in body[name].values())])
    print_table("Bulk beside live", ["models", *next(iter(body.values()))], rows)
    real = [body["writer"], body["painter"]]
    bars: Bars = {
        "live_real_p99_ratio": at_most(max(one["p99_ratio"] for one in real), 1.3),
        "live_real_bulk_share": at_least(min(one["bulk_share"] for one in real), 0.75),
        "live_timed_p99_ratio": at_most(body["eight timed"]["p99_ratio"], 1.10),
        "live_timed_bulk_share": at_least(body["eight timed"]["bulk_share"], 0.85),
    }
    return Outcome(body=body, bars=bars)


async def _measured(name: str, host: EngineHost, pairs: Sequence[Pair]) -> dict[str, float]:
    seen = {phase: [Seen() for _ in pairs] for phase in _PHASES}
    floor = Floor(host.address)
    floor.hold({engine.resident for pair in pairs for engine in pair.engines})
    keeping = asyncio.create_task(floor.run())
    for run, phase in in_turns(f"live beside bulk, {name}", _ROUNDS, _PHASES, num_warm_ups=1):
        counted = seen[phase] if run >= 0 else [Seen() for _ in pairs]
        await asyncio.gather(
            *(
                _phase(pair, phase, one, f"{run} {number}")
                for number, (pair, one) in enumerate(zip(pairs, counted, strict=True))
            )
        )
    keeping.cancel()
    for pair in pairs:
        for engine in pair.engines:
            await close(engine)
    found = [_ratios(*(seen[phase][number] for phase in _PHASES)) for number in range(len(pairs))]
    # Of several models, what happens to all their clients together.
    alone = Seen(latencies=[one for seen_by in seen["live"] for one in seen_by.latencies])
    both = Seen(latencies=[one for seen_by in seen["both"] for one in seen_by.latencies])
    return {
        "num_live": len(both.latencies),
        "p99_alone_ms": rounded(1000 * alone.p99),
        "p99_beside_ms": rounded(1000 * both.p99),
        "p99_ratio": rounded(both.p99 / alone.p99),
        "p50_ratio": rounded(statistics.median(both.latencies) / statistics.median(alone.latencies)),
        "left": rounded(statistics.mean(one["left"] for one in found)),
        "bulk_share": rounded(statistics.mean(one["bulk_share"] for one in found)),
    }


def _ratios(live: Seen, bulk: Seen, both: Seen) -> dict[str, float]:
    left = 1 - len(both.latencies) * statistics.mean(live.latencies) / both.seconds
    return {"left": left, "bulk_share": both.rows_a_second / (bulk.rows_a_second * left)}


async def _phase(pair: Pair, phase: str, seen: Seen, drawn: str) -> None:
    began = time.perf_counter()
    ends = began + _PHASE_SECONDS
    last = began

    async def live() -> None:
        draw, number = random.Random(drawn), 0
        pause = 0.0
        while time.perf_counter() < ends:
            asked = time.perf_counter()
            await pair.live(number)
            taken = time.perf_counter() - asked
            seen.latencies.append(taken)
            number += 1
            # By its own pace alone, so that a slower answer is no lighter load.
            pause = pause or taken
            await asyncio.sleep(draw.expovariate(1 / (_PAUSE * pause)))

    async def bulk() -> None:
        nonlocal last
        number = 0
        while time.perf_counter() < ends:
            seen.num_rows += await pair.bulk(number)
            number, last = number + 1, time.perf_counter()

    await asyncio.gather(*([live()] if phase != "bulk" else []), *([bulk()] if phase != "live" else []))
    # Bulk's last batch ends after live has: what was made in the time that it took.
    seen.seconds += (last if phase != "live" else time.perf_counter()) - began


def _writer(host: EngineHost, store: LocalStore, directory: Path) -> Pair:
    decoding = Decoding(temperature=1.0, top_p=1.0, max_new_tokens=_BULK_TOKENS)
    member = with_weights(member_of("writer", decoding=decoding), store, build_tiny_model(directory / "writer"))
    live, bulk = (
        opened(TRANSFORMERS, member, store, host.deployment(is_live=is_live), dtype="float32", batch_rows=_BATCH_ROWS)
        for is_live in (True, False)
    )
    assert isinstance(live, Engine)
    assert isinstance(bulk, Engine)

    def turn(seed: int, num_tokens: int) -> Turn:
        asked = (Message(role="user", content='Define the noun "water wheel".'),)
        return Turn(unit=str(seed), messages=asked, temperature=1.0, top_p=1.0, max_tokens=num_tokens, seed=seed)

    async def one(number: int) -> object:
        return await answer_of(live, turn(number % 8, _LIVE_TOKENS))

    async def batch(number: int) -> int:
        turns = [turn(100 + seed, _BULK_TOKENS) for seed in range(_BATCH_ROWS)]
        return _num_made(await answers_of(bulk, turns))

    return Pair(name="writer", engines=(live, bulk), live=one, bulk=batch)


def _painter(host: EngineHost, store: LocalStore, directory: Path) -> Pair:
    weights = build_pixel_pipeline(directory / "painter", hidden_size=128, depth=4)
    picture = Picture(width=16, height=16, num_inference_steps=20)
    member = with_weights(member_of("painter", picture=picture), store, weights)
    live, bulk = (
        opened(DIFFUSERS, member, store, host.deployment(is_live=is_live), dtype="float32", batch_rows=4)
        for is_live in (True, False)
    )
    return _painted("painter", live, bulk)


def _timed(number: int) -> Callable[[EngineHost, LocalStore, Path], Pair]:
    def made(host: EngineHost, store: LocalStore, directory: Path) -> Pair:
        member = member_of(f"timed-{number}", picture=Picture(width=8, height=8, num_inference_steps=_TIMED_STEPS))
        live, bulk = (
            opened(timed.KIND, member, store, host.deployment(is_live=is_live), step_seconds=_TIMED_STEP_SECONDS)
            for is_live in (True, False)
        )
        return _painted(member.role, live, bulk)

    return made


def _painted(name: str, live: LoadedModel, bulk: LoadedModel) -> Pair:
    assert isinstance(live, MediaEngine)
    assert isinstance(bulk, MediaEngine)

    async def one(number: int) -> object:
        return await live.make(MediaTurn(unit=str(number), text="a mill wheel", seed=number))

    async def batch(number: int) -> int:
        turns = [MediaTurn(unit=str(seed), text="water", seed=seed) for seed in range(4)]
        return _num_made(await made_of(bulk, turns))

    return Pair(name=name, engines=(live, bulk), live=one, bulk=batch)


def _num_made(outcomes: Sequence[object]) -> int:
    for one in outcomes:
        if isinstance(one, NoAnswer):
            raise one
    return len(outcomes)
