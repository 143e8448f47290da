"""Real gateways under load, aborts in the middle: how long until the last new unit on the candidate has started.

Three gateways with the echo engine share one store. Times are the gateways' own (`started_at` in their records, when a
unit was pinned), against the moment before the abort was written: one machine, one clock. With the store on SeaweedFS,
the gateways reach it through a proxy that answers 503 from just before, or just after, the abort on: what nobody can
read, nobody may wait for.
"""

import asyncio
import os
import statistics
import time
from collections import defaultdict
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from benchmarks.measuring import progress
from headrace.rollout import interventions
from headrace.rollout.preparation import preparations
from headrace.rollout.states import fold
from headrace.store.opening import open_store
from headrace.version_sets.sets import VersionSet
from simulation.faults.proxy import FaultProxy, fault_proxy
from simulation.servers.gateway_site import KEY, Site, role

NUM_GATEWAYS = 3
_READY_SECONDS_MAX = 60.0
# Clients a gateway, and their pause between two requests: some 150 requests a second in all, on two cores.
_NUM_CLIENTS = 4
_PAUSE_SECONDS = 0.06
_LOAD_SECONDS = 0.8
_AFTER_SECONDS = 1.7
_SERVICE: Mapping[str, Any] = {
    "chain": ["writer", "editor"],
    "session_seconds": 60,
    "rollout": {"steps": [0.5], "quorum": NUM_GATEWAYS},
    "roles": {
        name: role(decoding={"temperature": 0, "top_p": 1, "max_new_tokens": 8}) for name in ("writer", "editor")
    },
}
_MEASURED: dict[str, Any] = {"by": "benchmark", "reason": "measured"}


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
    aborts = Aborts(kind="local store")
    with ExitStack() as stack:
        fleet = Fleet(Site.make(directory, _SERVICE), {}, stack)
        for number in range(num_aborts):
            asyncio.run(fleet.abort(number, aborts))
    fleet.judge(aborts)
    return [aborts]


def outage_aborts(directory: Path, *, num_aborts: int = 3) -> list[Aborts]:
    """On SeaweedFS, healthy and answering 503."""
    from pipelines.object_store import running_object_store

    kinds = [Aborts(kind="SeaweedFS"), Aborts(kind="503 just before"), Aborts(kind="503 just after")]
    with ExitStack() as stack:
        server = stack.enter_context(running_object_store(directory / "weed"))
        proxy = stack.enter_context(fault_proxy(server.endpoint))
        os.environ.update(server.environment)
        store = open_store(server.url, cache=directory / "own-cache")
        behind_proxy = {"AWS_ENDPOINT_URL": proxy.endpoint, "HEADRACE_CACHE": str(directory / "cache")}
        fleet = Fleet(Site.make(directory, _SERVICE, store=store), behind_proxy, stack)
        for number in range(num_aborts * len(kinds)):
            aborts = kinds[number % len(kinds)]
            outage = proxy if aborts.kind.startswith("503") else None
            asyncio.run(fleet.abort(number, aborts, outage=outage, is_before=aborts.kind == "503 just before"))
    for aborts in kinds:
        fleet.judge(aborts)
    return kinds


class Fleet:
    """Gateways on one site, which end with `stack`. `trials`: candidate → the abort's kind, and when it was begun."""

    def __init__(self, site: Site, environment: Mapping[str, str], stack: ExitStack) -> None:
        self.site = site
        self.trials: dict[str, tuple[str, float]] = {}
        stack.callback(site.close)
        site.initialize()
        for _ in range(NUM_GATEWAYS):
            site.start(environment=environment)
        self._urls = [gateway.url for gateway in site.gateways]

    async def abort(
        self, number: int, aborts: Aborts, *, outage: FaultProxy | None = None, is_before: bool = False
    ) -> None:
        """One candidate's whole trial: proposed, prepared by all, started at half, put under load, aborted."""
        progress.print(f"abort {number + 1}: {aborts.kind}")
        candidate = await asyncio.to_thread(self._start_trial, str(number + 2))
        async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {KEY}"}) as session:
            loads = [asyncio.create_task(self._load(session, url, number, aborts)) for url in self._urls * _NUM_CLIENTS]
            # Another moment of the gateways' rounds of reads at each abort.
            await asyncio.sleep(_LOAD_SECONDS + 0.083 * (number % 5))
            if outage is not None and is_before:
                outage.add("unavailable", times=-1)
            began = time.time()
            await asyncio.to_thread(interventions.abort, self.site.journal, **_MEASURED)
            if outage is not None and not is_before:
                outage.add("unavailable", times=-1)
            await asyncio.sleep(_AFTER_SECONDS)
            if outage is not None:
                aborts.num_degraded += all([(await _readyz(session, url)).get("degraded") for url in self._urls])
                outage.faults.clear()
            for load in loads:
                load.cancel()
            await asyncio.gather(*loads, return_exceptions=True)
            self.trials[candidate.id] = (aborts.kind, began)
            for url in self._urls if outage is not None else ():
                await _until_ready(session, url)

    def judge(self, aborts: Aborts) -> None:
        """Counts this kind's units and mixed ones, and finds the last start on each of its candidates."""
        last: dict[str, float] = {}
        steps: dict[str, set[str]] = defaultdict(set)
        units: dict[str, str] = {}
        for record in (record for gateway in self.site.gateways for record in gateway.records()):
            if record["kind"] == "step":
                steps[record["request"]].add(record["version_set"])
            elif record["kind"] == "unit":
                name = units[record["request"]] = record["version_set"]
                last[name] = max(last.get(name, 0.0), record["started_at"])
        mine = {name for name, (kind, _) in self.trials.items() if kind == aborts.kind}
        aborts.seconds = [round(last[name] - self.trials[name][1], 4) for name in mine if name in last]
        aborts.num_units = sum(name in mine for name in units.values())
        aborts.num_mixed = sum(
            len(steps[request] | {name}) > 1 for request, name in units.items() if name in mine or steps[request] & mine
        )

    def _start_trial(self, version: str) -> VersionSet:
        """Both roles of a candidate differ from every other version's."""
        site, journal = self.site, self.site.journal
        candidate = site.version_set(writer={"version": version}, editor={"version": version})
        interventions.propose(journal, candidate, **_MEASURED)
        ends = time.monotonic() + _READY_SECONDS_MAX
        while True:
            state = fold(journal.entries())
            assert state is not None
            records = preparations(site.store, site.service.name, state.proposal)
            if len(records) == NUM_GATEWAYS:
                break
            if time.monotonic() > ends:
                raise TimeoutError(f"{len(records)} of {NUM_GATEWAYS} gateways prepared {candidate.id[:12]}.")
            time.sleep(0.05)
        interventions.start(journal, candidate, records, weight=0.5, quorum=NUM_GATEWAYS, seen=state, **_MEASURED)
        return candidate

    async def _load(self, session: aiohttp.ClientSession, url: str, trial: int, aborts: Aborts) -> None:
        """One client: a request after the other, each a unit of its own."""
        body = {"model": self.site.service.name, "messages": [{"role": "user", "content": "hello"}]}
        count = 0
        while True:
            count += 1
            unit = {"X-Headrace-Unit": f"{trial}-{id(asyncio.current_task())}-{count}"}
            async with session.post(f"{url}/v1/chat/completions", json=body, headers=unit) as answer:
                await answer.read()
                aborts.num_failed += answer.status != 200
            await asyncio.sleep(_PAUSE_SECONDS)


async def _until_ready(session: aiohttp.ClientSession, url: str) -> None:
    ends = time.monotonic() + _READY_SECONDS_MAX
    while (await _readyz(session, url)).get("status") != "ready":
        if time.monotonic() > ends:
            raise TimeoutError(f"{url} is not ready.")
        await asyncio.sleep(0.05)


async def _readyz(session: aiohttp.ClientSession, url: str) -> dict[str, Any]:
    async with session.get(f"{url}/readyz") as answer:
        return await answer.json()
