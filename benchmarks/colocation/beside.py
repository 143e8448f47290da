"""Bulk beside live on one host: how much later live answers come, and how much of what is left bulk gets.

A live client and a bulk client ask one model, of one version set, so they share one copy: live alone, bulk alone, and
both in each of the ways in which bulk may be asked, in turns. Two real engines (a writer of transformers, a painter of
diffusers), one after the other, and eight at once whose steps take a stated time and no core. A live client asks, gets
its answer, and pauses for a drawn time; a bulk client has always one batch with the host. What is left for bulk is the
time in which live work, at its pace alone, would not need the model.

| way | how bulk work is asked |
|---|---|
| `gated` | as a run does: batches of the class `batch`, which the host's gate and the model's thread know |
| `ungated` | as many turns at once as a batch has, each as a live client's: the host has nothing to tell them by |
| `router` | the same, and all who ask go through a plain router in front of the host, with one line for all |
"""

import asyncio
import random
import statistics
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from benchmarks.measuring import Bars, at_least, at_most, in_turns, print_table, rounded
from benchmarks.residency import timed
from benchmarks.residency.hosts import EngineHost, engine_host, listening, opened, with_entry_point, with_weights
from benchmarks.residency.members import member_of
from headrace.engines.asker import Asker
from headrace.engines.asking import answer_of, answers_of, close, made_of
from headrace.engines.base import Engine, LoadedModel, Message, NoAnswer, Turn
from headrace.engines.deployment import Deployment
from headrace.engines.host.address import HostAddress
from headrace.engines.host.floor import Floor
from headrace.engines.media import MediaEngine, MediaTurn
from headrace.engines.ours import DIFFUSERS, TRANSFORMERS
from headrace.store.local import LocalStore
from headrace.version_sets.media_settings import Picture
from headrace.version_sets.sets import Decoding
from simulation.tiny_model import build_tiny_model
from simulation.tiny_pipelines import build_pixel_pipeline

# One real engine answers too seldom for a 99th percentile of few rounds: of a hundred answers that is the slowest one.
_NUM_ROUNDS_REAL, _NUM_ROUNDS_TIMED, _PHASE_SECONDS = 12, 4, 10.0
# A live client's mean pause, in answers: the model is asked for by it for a third of the time.
_PAUSE = 2.0
_BATCH_ROWS, _LIVE_TOKENS, _BULK_TOKENS = 8, 64, 64
_NUM_TIMED, _TIMED_STEPS, _TIMED_STEP_SECONDS = 8, 20, 0.01
WAYS = ("gated", "ungated", "router")


@dataclass(frozen=True, kw_only=True)
class Way:
    """`live` makes one answer, `bulk` a batch."""

    live: Callable[[int], Awaitable[object]]
    bulk: Callable[[int], Awaitable[int]]


@dataclass(frozen=True, kw_only=True)
class Pair:
    """One model, as its live client and its bulk client see it, in each way."""

    name: str
    engines: Sequence[LoadedModel]
    ways: dict[str, Way]


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


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where models are: a host, and the router in front of it."""

    host: EngineHost
    router: HostAddress
    store: LocalStore
    directory: Path

    def deployments(self) -> tuple[Deployment, Deployment, Deployment]:
        """Of a live client, of a run, and of whoever asks through the router."""
        routed = Deployment(host=self.router, asker=Asker(work_class="live"))
        return self.host.deployment("live"), self.host.deployment("batch"), routed


def measured(directory: Path, ways: Sequence[str]) -> dict[str, dict[str, dict[str, float]]]:
    """Models → way → figures."""
    store = LocalStore(directory / "store")
    body: dict[str, dict[str, dict[str, float]]] = {}
    environment = with_entry_point(directory / "site-packages", "timed", "benchmarks.residency.timed:KIND")
    with engine_host(directory, store, memory_mib=12_000, environment=environment) as host:
        own = directory / "router.sock"
        command = ["benchmarks.colocation.router", str(host.address.socket_file), str(own)]
        with listening(command, own, directory / "router.log"):
            router = replace(host.address, socket_file=own)
            place = Place(host=host, router=router, store=store, directory=directory)
            cases = {"writer": [_writer], "painter": [_painter], "eight timed": [_timed(n) for n in range(_NUM_TIMED)]}
            for name, makers in cases.items():
                num_rounds = _NUM_ROUNDS_TIMED if len(makers) > 1 else _NUM_ROUNDS_REAL
                pairs = [make(place) for make in makers]
                body[name] = asyncio.run(_measured(name, host, pairs, ways, num_rounds))
    return body


def bars_of(body: Mapping[str, Mapping[str, Mapping[str, float]]], prefix: str = "") -> Bars:
    """What the gated way has to reach."""
    real, timed_ones = [body["writer"]["gated"], body["painter"]["gated"]], body["eight timed"]["gated"]
    return {
        f"{prefix}real_p99_ratio": at_most(max(one["p99_ratio"] for one in real), 1.3),
        f"{prefix}real_bulk_share": at_least(min(one["bulk_share"] for one in real), 0.75),
        f"{prefix}timed_p99_ratio": at_most(timed_ones["p99_ratio"], 1.10),
        f"{prefix}timed_bulk_share": at_least(timed_ones["bulk_share"], 0.85),
    }


def print_ways(body: Mapping[str, Mapping[str, Mapping[str, float]]]) -> None:
    rows = [
        [name, way, *(f"{value:.3g}" for value in figures.values())]
        for name, ways in body.items()
        for way, figures in ways.items()
    ]
    print_table("Bulk beside live", ["models", "bulk is", *next(iter(body["writer"].values()))], rows)


async def _measured(
    name: str, host: EngineHost, pairs: Sequence[Pair], ways: Sequence[str], num_rounds: int
) -> dict[str, dict[str, float]]:
    phases = ["live", "bulk", *ways]
    seen = {phase: [Seen() for _ in pairs] for phase in phases}
    floor = Floor(host.address)
    floor.hold({engine.resident for pair in pairs for engine in pair.engines})
    keeping = asyncio.create_task(floor.run())
    for run, phase in in_turns(f"live beside bulk, {name}", num_rounds, phases, num_warm_ups=1):
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
    return {way: _figures([seen[phase] for phase in ("live", "bulk", way)]) for way in ways}


def _figures(phases: Sequence[Sequence[Seen]]) -> dict[str, float]:
    """Args: phases: live alone, bulk alone, and both; of each what each pair's clients saw."""
    found = [_ratios(*seen) for seen in zip(*phases, strict=True)]
    # Of several models, what happens to all their clients together.
    alone, both = (
        Seen(latencies=[one for seen_by in seen for one in seen_by.latencies]) for seen in (phases[0], phases[2])
    )
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
    way = pair.ways[phase if phase in pair.ways else "gated"]
    began = time.perf_counter()
    ends = began + _PHASE_SECONDS
    last = began

    async def live() -> None:
        draw, number = random.Random(drawn), 0
        pause = 0.0
        while time.perf_counter() < ends:
            asked = time.perf_counter()
            await way.live(number)
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
            seen.num_rows += await way.bulk(number)
            number, last = number + 1, time.perf_counter()

    await asyncio.gather(*([live()] if phase != "bulk" else []), *([bulk()] if phase != "live" else []))
    # Bulk's last batch ends after live has: what was made in the time that it took.
    seen.seconds += (last if phase != "live" else time.perf_counter()) - began


def _writer(place: Place) -> Pair:
    decoding = Decoding(temperature=1.0, top_p=1.0, max_new_tokens=_BULK_TOKENS)
    member = member_of("writer", decoding=decoding)
    member = with_weights(member, place.store, build_tiny_model(place.directory / "writer"))
    engines: list[Engine] = []
    for deployment in place.deployments():
        engine = opened(TRANSFORMERS, member, place.store, deployment, dtype="float32", batch_rows=_BATCH_ROWS)
        assert isinstance(engine, Engine)
        engines.append(engine)
    live, bulk, routed = engines

    def turn(seed: int, num_tokens: int) -> Turn:
        asked = (Message(role="user", content='Define the noun "water wheel".'),)
        return Turn(unit=str(seed), messages=asked, temperature=1.0, top_p=1.0, max_tokens=num_tokens, seed=seed)

    rows = [turn(100 + seed, _BULK_TOKENS) for seed in range(_BATCH_ROWS)]

    def one_of(engine: Engine) -> Callable[[int], Awaitable[object]]:
        return lambda number: answer_of(engine, turn(number % 8, _LIVE_TOKENS))

    async def batch(number: int) -> int:
        return _num_made(await answers_of(bulk, rows))

    def alone_by(engine: Engine) -> Callable[[int], Awaitable[int]]:
        async def made(number: int) -> int:
            return len(await asyncio.gather(*(answer_of(engine, row) for row in rows)))

        return made

    ways = {
        "gated": Way(live=one_of(live), bulk=batch),
        "ungated": Way(live=one_of(live), bulk=alone_by(live)),
        "router": Way(live=one_of(routed), bulk=alone_by(routed)),
    }
    return Pair(name="writer", engines=engines, ways=ways)


def _painter(place: Place) -> Pair:
    weights = build_pixel_pipeline(place.directory / "painter", hidden_size=128, depth=4)
    picture = Picture(width=16, height=16, num_inference_steps=20)
    member = with_weights(member_of("painter", picture=picture), place.store, weights)
    return _painted(
        "painter",
        [
            opened(DIFFUSERS, member, place.store, deployment, dtype="float32", batch_rows=4)
            for deployment in place.deployments()
        ],
    )


def _timed(number: int) -> Callable[[Place], Pair]:
    def made(place: Place) -> Pair:
        member = member_of(f"timed-{number}", picture=Picture(width=8, height=8, num_inference_steps=_TIMED_STEPS))
        return _painted(
            member.role,
            [
                opened(timed.KIND, member, place.store, deployment, step_seconds=_TIMED_STEP_SECONDS)
                for deployment in place.deployments()
            ],
        )

    return made


def _painted(name: str, engines: Sequence[LoadedModel]) -> Pair:
    """Args: engines: of a live client, of a run, and through the router."""
    painters = [one for one in engines if isinstance(one, MediaEngine)]
    live, bulk, routed = painters
    rows = [MediaTurn(unit=str(seed), text="water", seed=seed) for seed in range(4)]

    def one_of(engine: MediaEngine) -> Callable[[int], Awaitable[object]]:
        return lambda number: engine.make(MediaTurn(unit=str(number), text="a mill wheel", seed=number))

    async def batch(number: int) -> int:
        return _num_made(await made_of(bulk, rows))

    def alone_by(engine: MediaEngine) -> Callable[[int], Awaitable[int]]:
        async def made(number: int) -> int:
            return len(await asyncio.gather(*map(engine.make, rows)))

        return made

    ways = {
        "gated": Way(live=one_of(live), bulk=batch),
        "ungated": Way(live=one_of(live), bulk=alone_by(live)),
        "router": Way(live=one_of(routed), bulk=alone_by(routed)),
    }
    return Pair(name=name, engines=painters, ways=ways)


def _num_made(outcomes: Sequence[object]) -> int:
    for one in outcomes:
        if isinstance(one, NoAnswer):
            raise one
    return len(outcomes)
