"""Real gateways under load, aborts in the middle: how long until the last new unit on the candidate has started.

Three processes `python -m headrace.serving.gateway` with the echo engine share one store. Times are the gateways' own
(`started_at` in their records, when a unit was pinned), against the moment before the abort was written: one machine,
one clock. With the store on SeaweedFS, the gateways reach it through a proxy that answers 503 from just before, or just
after, the abort on: what nobody can read, nobody may wait for.
"""

import asyncio
import json
import os
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import yaml

from benchmarks.measuring import progress
from headrace.clock import SystemClock
from headrace.rollout import interventions
from headrace.rollout.journal import Journal
from headrace.rollout.preparation import preparations
from headrace.rollout.states import INITIALIZED, fold
from headrace.rollout.version_sets import VersionSet, VersionSets
from headrace.serving.service import Service
from headrace.store.objects import ObjectStore
from headrace.store.opening import open_store
from headrace.typed_mapping import from_mapping
from simulation.faults.proxy import FaultProxy, fault_proxy

NAME = "answers"
NUM_GATEWAYS = 3
_READY_SECONDS_MAX = 60.0
# Clients a gateway, and their pause between two requests: some 150 requests a second in all, on two cores.
_NUM_CLIENTS = 4
_PAUSE_SECONDS = 0.06
_LOAD_SECONDS = 0.8
_AFTER_SECONDS = 1.7
_SERVICE = """
name: {name}
chain: [writer, editor]
session_seconds: 60
rollout: {{steps: [0.5], quorum: {quorum}}}
roles:
  writer: {role}
  editor: {role}
"""
_ROLE = (
    '{{model: words, version: "{version}", registered: false, engine: {{name: echo}}, '
    "decoding: {{temperature: 0, top_p: 1, max_new_tokens: 8}}}}"
)


@dataclass(kw_only=True)
class Aborts:
    """What some aborts of one kind showed. Seconds from the abort to the last unit that started on the candidate."""

    kind: str
    seconds: list[float] = field(default_factory=list)
    num_units: int = 0
    num_mixed: int = 0
    num_failed: int = 0
    # Of the aborts under an outage: after how many did each gateway's /readyz say `degraded`.
    num_degraded: int = 0

    @property
    def worst(self) -> float:
        return max(self.seconds, default=float("nan"))

    @property
    def median(self) -> float:
        return statistics.median(self.seconds) if self.seconds else float("nan")


def live_aborts(directory: Path, *, num_aborts: int = 6) -> list[Aborts]:
    """On a directory as the store."""
    url = (directory / "store").as_uri()
    aborts = Aborts(kind="local store")
    with _gateways(directory, url, {}) as fleet:
        for number in range(num_aborts):
            asyncio.run(_abort(fleet, open_store(url), number, aborts))
    _judge_records(fleet, aborts)
    return [aborts]


def outage_aborts(directory: Path, *, num_aborts: int = 3) -> list[Aborts]:
    """On SeaweedFS, healthy and answering 503."""
    from pipelines.object_store import running_object_store

    kinds = [Aborts(kind="SeaweedFS"), Aborts(kind="503 just before"), Aborts(kind="503 just after")]
    with ExitStack() as stack:
        server = stack.enter_context(running_object_store(directory / "weed"))
        proxy = stack.enter_context(fault_proxy(server.endpoint, 0))
        store = _store_of(server.url, server.environment, directory)
        behind_proxy = server.environment | {
            "AWS_ENDPOINT_URL": proxy.endpoint,
            "HEADRACE_CACHE": str(directory / "cache"),
        }
        fleet = stack.enter_context(_gateways(directory, server.url, behind_proxy, store=store))
        for number in range(num_aborts * len(kinds)):
            aborts = kinds[number % len(kinds)]
            outage = {"503 just before": proxy, "503 just after": proxy}.get(aborts.kind)
            is_before = aborts.kind == "503 just before"
            asyncio.run(_abort(fleet, store, number, aborts, outage=outage, is_before=is_before))
    for aborts in kinds:
        _judge_records(fleet, aborts)
    return kinds


@dataclass(kw_only=True)
class Fleet:
    """`trials`: candidate → the kind of abort that ended it, and when that was begun."""

    urls: list[str]
    logs: list[Path]
    trials: dict[str, tuple[str, float]] = field(default_factory=dict)


@contextmanager
def _gateways(
    directory: Path, url: str, environment: Mapping[str, str], *, store: ObjectStore | None = None
) -> Iterator[Fleet]:
    store = store or open_store(url)
    file = directory / "service.yaml"
    file.write_text(_service_text(1))
    stable = _set(1)
    VersionSets(store).put(stable)
    body = {"version_set": stable.id, "weights_digest": "words 1", "reason": "the first one"}
    Journal(store, NAME, SystemClock()).append(INITIALIZED, body, expected=0)
    processes: list[subprocess.Popen[bytes]] = []
    logs = [directory / f"gateway-{number}.jsonl" for number in range(NUM_GATEWAYS)]
    try:
        for number, log in enumerate(logs):
            command = [sys.executable, "-m", "headrace.serving.gateway", "--service", str(file), "--store", url]
            command += ["--port", "0", "--log", str(log), "--node", f"node-{number}"]
            with (directory / f"gateway-{number}.err").open("wb") as errors:
                processes.append(
                    subprocess.Popen(command, env={**os.environ, **environment}, stdout=errors, stderr=errors)
                )
        urls = [_address(log, process) for log, process in zip(logs, processes, strict=True)]
        fleet = Fleet(urls=urls, logs=logs)
        asyncio.run(_until_ready(urls))
        yield fleet
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


async def _abort(
    fleet: Fleet,
    store: ObjectStore,
    number: int,
    aborts: Aborts,
    *,
    outage: FaultProxy | None = None,
    is_before: bool = False,
) -> None:
    """One candidate's whole trial: proposed, prepared by all, started at half, put under load, aborted."""
    progress.print(f"abort {number + 1}: {aborts.kind}")
    journal = Journal(store, NAME, SystemClock())
    candidate = await asyncio.to_thread(_start_trial, store, journal, number + 2)
    async with aiohttp.ClientSession() as session:
        loads = [asyncio.create_task(_load(session, url, number, aborts)) for url in fleet.urls * _NUM_CLIENTS]
        # Another moment of the gateways' rounds of reads at each abort.
        await asyncio.sleep(_LOAD_SECONDS + 0.083 * (number % 5))
        if outage is not None and is_before:
            outage.next_fault = lambda: "unavailable"
        began = time.time()
        await asyncio.to_thread(interventions.abort, journal, by="benchmark", reason="measured")
        if outage is not None and not is_before:
            outage.next_fault = lambda: "unavailable"
        await asyncio.sleep(_AFTER_SECONDS)
        if outage is not None:
            answers = [await _readyz(session, url) for url in fleet.urls]
            aborts.num_degraded += all(answer.get("degraded") for answer in answers)
            outage.next_fault = lambda: None
        for load in loads:
            load.cancel()
        await asyncio.gather(*loads, return_exceptions=True)
    fleet.trials[candidate.id] = (aborts.kind, began)
    if outage is not None:
        await _until_fresh(fleet.urls)


def _start_trial(store: ObjectStore, journal: Journal, version: int) -> VersionSet:
    candidate = _set(version)
    VersionSets(store).put(candidate)
    interventions.propose(journal, candidate, by="benchmark", reason="measured")
    ends = time.monotonic() + _READY_SECONDS_MAX
    while True:
        state = fold(journal.entries())
        assert state is not None
        records = preparations(store, NAME, state.proposal)
        if len(records) == NUM_GATEWAYS:
            break
        if time.monotonic() > ends:
            raise TimeoutError(f"{len(records)} of {NUM_GATEWAYS} gateways prepared {candidate.id[:12]}.")
        time.sleep(0.05)
    interventions.start(
        journal,
        candidate,
        records,
        by="benchmark",
        reason="measured",
        weight=0.5,
        quorum=NUM_GATEWAYS,
        seen=state,
    )
    return candidate


async def _load(session: aiohttp.ClientSession, url: str, trial: int, aborts: Aborts) -> None:
    """One client: a request after the other, each a unit of its own."""
    body = {"model": NAME, "messages": [{"role": "user", "content": "hello"}]}
    count = 0
    while True:
        count += 1
        unit = f"{trial}-{id(asyncio.current_task())}-{count}"
        async with session.post(f"{url}/v1/chat/completions", json=body, headers={"X-Headrace-Unit": unit}) as answer:
            await answer.read()
            aborts.num_failed += answer.status != 200
        await asyncio.sleep(_PAUSE_SECONDS)


def _judge_records(fleet: Fleet, aborts: Aborts) -> None:
    """Counts this kind's units and mixed ones, and finds the last start on each of its candidates."""
    last: dict[str, float] = {}
    steps: dict[str, set[str]] = defaultdict(set)
    units: dict[str, str] = {}
    for log in fleet.logs:
        for line in map(json.loads, log.read_text().splitlines()):
            if line["kind"] == "step":
                steps[line["request"]].add(line["version_set"])
            elif line["kind"] == "unit":
                units[line["request"]] = line["version_set"]
                if line["version_set"] in fleet.trials:
                    last[line["version_set"]] = max(last.get(line["version_set"], 0.0), line["started_at"])
    mine = {name for name, (kind, _) in fleet.trials.items() if kind == aborts.kind}
    aborts.seconds = [round(last[name] - fleet.trials[name][1], 4) for name in mine if name in last]
    aborts.num_units = sum(name in mine for name in units.values())
    aborts.num_mixed = sum(
        len(steps[request] | {name}) > 1 for request, name in units.items() if name in mine or steps[request] & mine
    )


def _service_text(version: int) -> str:
    return _SERVICE.format(name=NAME, quorum=NUM_GATEWAYS, role=_ROLE.format(version=version))


def _set(version: int) -> VersionSet:
    """The set of a service file of this version; both roles differ from every other version's."""
    return from_mapping(Service, yaml.safe_load(_service_text(version)), "service").version_set({})


def _store_of(url: str, environment: Mapping[str, str], directory: Path) -> ObjectStore:
    os.environ.update(environment)
    return open_store(url, cache=directory / "own-cache")


def _address(log: Path, process: subprocess.Popen[bytes]) -> str:
    ends = time.monotonic() + _READY_SECONDS_MAX
    while time.monotonic() < ends and process.poll() is None:
        for line in log.read_text().splitlines() if log.exists() else ():
            if '"event":"listening"' in line:
                return json.loads(line)["address"]
        time.sleep(0.05)
    raise RuntimeError(f"A gateway does not listen. What it said: {log.with_suffix('.err').read_text()[-2000:]}")


async def _until_ready(urls: list[str]) -> None:
    async with aiohttp.ClientSession() as session:
        ends = time.monotonic() + _READY_SECONDS_MAX
        for url in urls:
            while (await _readyz(session, url)).get("status") != "ready":
                if time.monotonic() > ends:
                    raise TimeoutError(f"{url} is not ready.")
                await asyncio.sleep(0.05)


_until_fresh = _until_ready


async def _readyz(session: aiohttp.ClientSession, url: str) -> dict[str, Any]:
    async with session.get(f"{url}/readyz") as answer:
        return await answer.json()
