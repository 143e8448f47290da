"""Checks the twelve invariants after a schedule: on records with times, and on the store's raw objects.

Written from the promises, without using the library. Records and objects carry their time, so a check at the end sees
every moment in between.
"""

import json
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import pairwise
from typing import Any

import pyarrow as pa

from simulation.disk import Disk, Kept, Trouble
from simulation.history import Broken, History, read_history, words_of
from simulation.records import Log, UnitRecord

# A plan lease: how long a router may continue with a plan that it cannot renew.
LEASE_SECONDS = 1.0
# Rounding of sums of simulated times.
_EPSILON = 1e-6
# How soon after a trouble, or after its start, a router must have its lease back: one round of reads.
_RECOVERY_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Violation:
    """`invariant`: 1 to 12, as the checks below are numbered."""

    invariant: int
    what: str


@dataclass(frozen=True, kw_only=True)
class Site:
    """What the oracle knows of a schedule beside its records."""

    name: str
    roles: tuple[str, ...]
    quorum: int
    session_seconds: float
    # Sets with a missing or damaged member: no node can prepare them.
    damaged: frozenset[str] = frozenset()
    troubles: tuple[Trouble, ...] = ()
    # Router → its start.
    born: Mapping[str, float] = field(default_factory=dict)
    # Simulated seconds → the gateways' clock times.
    wall: Callable[[float], float] = float


@dataclass(frozen=True, slots=True)
class Judged:
    """`num_units`, `num_mixed`: live units and bulk attempts. `num_raced`: partitions sealed within a second after an
    abort, by workers that looked at the journal in the preceding call and saw none."""

    violations: list[Violation]
    num_units: int
    num_mixed: int
    num_raced: int


def judge(disk: Disk, log: Log, site: Site) -> Judged:
    """All violations of a schedule."""
    try:
        history = read_history(disk.objects, site.name)
    except Broken as error:
        return Judged([Violation(11, str(error))], len(log.units), 0, 0)
    checks = _Checks(disk, log, site, history)
    found = list(checks.all())
    return Judged(found, checks.num_units, checks.num_mixed, checks.num_raced)


class _Checks:
    def __init__(self, disk: Disk, log: Log, site: Site, history: History) -> None:
        self.disk, self.log, self.site, self.history = disk, log, site, history
        self.num_units = len(log.units)
        self.num_mixed = 0
        self.num_raced = 0
        self.chains = _session_pins(disk, site.name)

    def all(self) -> Iterator[Violation]:
        for number, check in (
            (1, self.atomic),
            (2, self.pinned),
            (3, self.monotone),
            (4, self.share),
            (5, self.capped),
            (6, self.rolled_back),
            (7, self.no_going_back),
            (8, self.partitions),
            (9, self.without_registry),
            (10, self.prepared),
            (11, self.audited),
            (12, lambda: iter(self.log.crash_equal)),
        ):
            for what in check():
                yield Violation(number, what)

    # 1
    def atomic(self) -> Iterator[str]:
        for unit in self.log.units:
            named = {step.version_set for step in unit.steps}
            if len(named | ({unit.version_set} if unit.steps else set())) > 1:
                self.num_mixed += 1
                yield f"{_name(unit)} saw {len(named)} sets: {sorted(one[:8] for one in named)}"

    # 2
    def pinned(self) -> Iterator[str]:
        for session, pins in self.chains.items():
            for (before, _), (pin, later) in pairwise(pins):
                if pin["version_set"] == before["version_set"]:
                    continue
                if not self._has_begun(session, before["version_set"], later.at):
                    # The maker of that pin died, or gave up, before the session's turn began.
                    continue
                expired = self.site.wall(later.at) >= before["expires_at"] - _EPSILON
                stand = self.history.at(later.at)
                evicted = stand is not None and before["version_set"] in stand.evicted
                if not expired and not (evicted and pin["reason"] == "repinned"):
                    yield f"session {session} was moved from {_short(before)} to {_short(pin)} at {later.at:.3f}"
        for unit in self._turns():
            pins = self.chains.get(unit.session or "", [])
            if not unit.is_pinned:
                continue
            if not any(pin["version_set"] == unit.version_set for pin, _ in self._in_force(pins, unit)):
                yield f"{_name(unit)} ran on {unit.version_set[:8]} ({unit.reason}), which was not its session's pin"

    def _has_begun(self, session: str, version_set: str, until: float) -> bool:
        return any(
            unit.session == session and unit.version_set == version_set and unit.started_at <= until
            for unit in self._turns()
            if unit.is_pinned
        )

    def _in_force(self, pins: list[tuple[dict[str, Any], Kept]], unit: UnitRecord) -> Iterator[tuple[dict, Kept]]:
        """The pins that a turn may have seen: of the lease's last second, or longer if its router had no store."""
        for index, (pin, kept) in enumerate(pins):
            if kept.at > unit.started_at + _EPSILON:
                return
            until = pins[index + 1][1].at if index + 1 < len(pins) else float("inf")
            unseen = self._last_well(unit.router, unit.begun_at) - LEASE_SECONDS
            if until >= min(unit.begun_at - LEASE_SECONDS, unseen) - _EPSILON:
                yield pin, kept

    # 3
    def monotone(self) -> Iterator[str]:
        least_on: dict[tuple[int, str], float] = {}
        most_off: dict[tuple[int, str], float] = {}
        for unit in self.log.units:
            stand = self.history.of(unit.entry)
            if unit.reason != "weight" or unit.failure or stand is None or stand.candidate is None:
                continue
            key = (stand.trial, unit.session or unit.unit)
            if unit.version_set == stand.candidate:
                least_on[key] = min(least_on.get(key, 2.0), stand.weight)
            else:
                most_off[key] = max(most_off.get(key, -1.0), stand.weight)
        for key in least_on.keys() & most_off.keys():
            if most_off[key] >= least_on[key]:
                weights = f"had the candidate at {least_on[key]:g} and not at {most_off[key]:g}"
                yield f"key {key[1]} of trial {key[0]} {weights}"

    # 4
    def share(self) -> Iterator[str]:
        for share in self.log.shares:
            weight = self.history.stands[share.entry - 1].weight
            if share.exact:
                wanted = 0 if weight == 0 else max(1, math.ceil(Fraction(repr(weight)) * share.num))
                if share.num_candidate != wanted:
                    yield f"{share.num_candidate} of {share.num} partitions at weight {weight:g}, planned {wanted}"
                continue
            observed = share.num_candidate / share.num
            allowed = 5 * math.sqrt(weight * (1 - weight) / share.num)
            if abs(observed - weight) > allowed + _EPSILON:
                yield f"{observed:.4f} of {share.num} keys at weight {weight:g}, allowed ±{allowed:.4f}"
        for unit in self.log.units:
            # A gateway that has not loaded the candidate (yet) cannot serve it.
            kept_off = unit.reason == "degraded" and unit.has_candidate and not unit.failure
            if kept_off and self._was_well(unit):
                yield f"{_name(unit)} was kept off the candidate although its router had the store all the time"

    # 5
    def capped(self) -> Iterator[str]:
        started: dict[int, list[tuple[float, str]]] = defaultdict(list)
        for unit in self._starts():
            stand = self.history.of(unit.trial)
            if stand is not None and stand.candidate == unit.version_set:
                started[unit.trial].append((unit.started_at, unit.session or f"{unit.unit} {unit.begun_at}"))
        for trial, starts in started.items():
            seen: set[str] = set()
            for at, unit in sorted(starts):
                seen.add(unit)
                caps = [stand.cap for stand in self.history.between(at - LEASE_SECONDS, at) if stand.trial == trial]
                if caps and None not in caps and len(seen) > max(caps):  # pyright: ignore[reportArgumentType, reportCallIssue]
                    yield f"unit {len(seen)} of trial {trial} started at {at:.3f} under a cap of {max(caps)}"  # pyright: ignore
                    break
        prefix = f"rollout/{self.site.name}/caps/"
        leased: dict[str, int] = defaultdict(int)
        for key in sorted(key for key in self.disk.objects if key.startswith(prefix)):
            trial = key.removeprefix(prefix).partition("/")[0]
            lease, kept = self.disk.json(key), self.disk.objects[key]
            if lease["first"] != leased[trial]:
                yield f"{key} begins at {lease['first']}, the leases before it hold {leased[trial]}"
            leased[trial] += lease["count"]
            caps = [stand.cap for stand in self.history.stands if stand.trial == int(trial) and stand.since <= kept.at]
            if caps and None not in caps and leased[trial] > max(caps):  # pyright: ignore[reportArgumentType, reportCallIssue]
                yield f"leases of trial {trial} hold {leased[trial]} units, its cap was never above {max(caps)}"  # pyright: ignore

    # 6
    def rolled_back(self) -> Iterator[str]:
        for unit in self._starts():
            aborted_at = self.history.aborted_at.get(unit.version_set)
            if aborted_at is not None and unit.started_at > aborted_at + LEASE_SECONDS + _EPSILON:
                late = unit.started_at - aborted_at
                yield f"{_name(unit)} started on {unit.version_set[:8]} {late:.3f} s after its abort ({unit.reason})"
        for unit in self._routed():
            stand = self.history.of(unit.entry)
            # A session's pin outlives its plan; the stable set needs no fresh plan.
            if unit.session is not None or (stand is not None and unit.version_set == stand.stable):
                continue
            replaced_at = self.history.replaced_at(unit.entry)
            if unit.started_at > replaced_at + LEASE_SECONDS + _EPSILON:
                late = unit.started_at - replaced_at
                yield f"{_name(unit)} was routed by entry {unit.entry}, replaced {late:.3f} s ago"
        for key, kept in self.disk.objects.items():
            if not key.startswith("claims/") or not key.endswith(".settled.json"):
                continue
            claim = self.disk.json(key.replace(".settled.json", ".json"))
            aborted_at = self.history.aborted_at.get(claim["version_set"])
            if aborted_at is None or json.loads(kept.body)["outcome"] != "sealed" or kept.at <= aborted_at:
                continue
            late = kept.at - aborted_at
            looked_at = self.disk.looked_at.get(key)
            if looked_at is None or looked_at > aborted_at or late > LEASE_SECONDS:
                what = "" if looked_at is not None else ", by a worker that had not looked at the journal"
                named = f"{claim['partition']} was sealed on {claim['version_set'][:8]}"
                yield f"{named} {late:.3f} s after its abort{what}"
            else:
                self.num_raced += 1

    # 7
    def no_going_back(self) -> Iterator[str]:
        owners: dict[int, str] = {}
        for append in self.log.appends:
            if append.number is None:
                continue
            if append.number != append.expected + 1:
                yield f"{append.by} decided at entry {append.expected} and wrote entry {append.number}"
            if append.number in owners:
                yield f"entry {append.number} was written by {owners[append.number]} and by {append.by}"
            owners[append.number] = append.by
            event = self.history.events.get(append.number, ("nothing", {}))[0]
            if event != append.event:
                yield f"{append.by} was told that entry {append.number} is {append.event}, it is {event}"
        for key, at in self.disk.gone:
            if "/journal/" in key:
                yield f"{key} was taken away or written over at {at:.3f}"
        newest: dict[str, int] = defaultdict(int)
        for unit in sorted(self._routed(), key=lambda unit: unit.started_at):
            if unit.session is not None:
                # A session's pin names the entry at which it was pinned, however old.
                continue
            if unit.entry < newest[unit.router]:
                yield f"{unit.router} applied entry {unit.entry} after entry {newest[unit.router]}"
            newest[unit.router] = max(newest[unit.router], unit.entry)
            stand = self.history.of(unit.entry)
            allowed = () if stand is None else (stand.stable, stand.candidate)
            if unit.reason in ("degraded", "capped"):
                allowed = allowed[:1]
            if unit.version_set not in allowed or (stand and stand.since > unit.started_at):
                named = f"{unit.version_set[:8]} ({unit.reason})"
                yield f"{_name(unit)} ran on {named}, which entry {unit.entry} does not give"

    # 8
    def partitions(self) -> Iterator[str]:
        claims = {key: self.disk.json(key) for key in self.disk.objects if _is_claim(key)}
        by_id = {claim["id"]: (key, claim) for key, claim in claims.items()}
        self.num_units += len(claims)
        for key, claim in claims.items():
            if "/a0001.json" in key:
                continue
            before = key.rpartition("/")[0] + f"/a{claim['attempt'] - 1:04d}"
            ended = self.disk.objects.get(before + ".settled.json")
            if ended is None or ended.at > self.disk.objects[key].at:
                yield f"attempt {claim['attempt']} at {claim['partition']} began while the one before it was under way"
        for one in self.log.tries:
            if one.claim and by_id[one.claim][1]["version_set"] != one.version_set:
                yield f"run {one.run} worked on {one.version_set[:8]}, its claim pins another set"
        inputs: dict[tuple[str, str], str] = {}
        for one in self.log.tries:
            if one.claim and inputs.setdefault((one.partition, one.run), one.inputs_digest) != one.inputs_digest:
                yield f"a retry of run {one.run} read other inputs than its first try"
        yield from self._sealed(by_id)

    def _sealed(self, by_id: Mapping[str, tuple[str, dict[str, Any]]]) -> Iterator[str]:
        published: dict[str, str] = {}
        newest_read: dict[str, int] = defaultdict(int)
        mixed: set[str] = set()
        # In order of versions, which is the order of their keys.
        for key in sorted(self.disk.objects):
            if not (key.startswith("handoff/generated_content/") and key.endswith("/manifest.json")):
                continue
            manifest = self.disk.json(key)
            claim_key, claim = by_id[manifest["attributes"]["claim"]]
            settled = self.disk.objects.get(claim_key.replace(".json", ".settled.json"))
            outcome = json.loads(settled.body)["outcome"] if settled else "under way"
            if outcome != "sealed":
                yield f"{claim['partition']} is published out of an attempt that is {outcome}"
            # Again only after another one, because its inputs changed back.
            if published.get(claim["partition"]) == claim["id"]:
                yield f"attempt {claim['attempt']} at {claim['partition']} is published twice"
            published[claim["partition"]] = claim["id"]
            read = int(manifest["input_versions"][f"prompts[{claim['partition']}]"].partition(" ")[0][1:])
            if read < newest_read[claim["partition"]]:
                named = f"prompts v{read}, after rows of v{newest_read[claim['partition']]}"
                yield f"{claim['partition']} shows rows of {named}, in v{manifest['version']}"
            newest_read[claim["partition"]] = max(read, newest_read[claim["partition"]])
            sets, texts = self._rows(manifest)
            if sets | texts != {claim["version_set"]}:
                mixed.add(claim["id"])
                yield f"{claim['partition']} has rows of {len(sets | texts)} sets"
        self.num_mixed += len(mixed)

    def _rows(self, manifest: Mapping[str, Any]) -> tuple[set[str], set[str]]:
        """The sets that the rows name, and the sets of their engines: the simulated engine answers its set's id."""
        sets: set[str] = set()
        texts: set[str] = set()
        for part in manifest["parts"]:
            table = pa.ipc.open_file(pa.py_buffer(self.disk.objects[part["key"]].body)).read_all()
            sets |= set(table["version_set"].to_pylist())
            texts |= set(table["output"].to_pylist())
        return sets, texts

    # 9
    def without_registry(self) -> Iterator[str]:
        for unit in self.log.units:
            # Without a store a gateway can neither read an unknown session's pin nor fetch a set, and a session's set
            # may be rolled back while it loads: it reports that. If the registry is well, it is not the cause.
            if unit.failure and unit.registry != "well" and self._was_well(unit):
                yield f"{_name(unit)} failed: {unit.failure}"
        for tick in self.log.ticks:
            if tick.registry == "dead" and "propose" in tick.kinds:
                yield f"{tick.by} proposed a set at {tick.begun_at:.3f} although the registry was dead"
            if tick.failure:
                yield f"a tick of {tick.by} failed: {tick.failure}"
        for order in self.log.orders:
            is_held_up = order.ended_at is not None and order.ended_at - order.begun_at > 1.0
            if order.ended_at is not None and is_held_up and order.store_was_well and order.registry != "well":
                seconds = order.ended_at - order.begun_at
                yield f"{order.kind} took {seconds:.1f} s with a registry that is {order.registry}"

    # 10
    def prepared(self) -> Iterator[str]:
        for number, (event, fields) in self.history.events.items():
            if event != "started":
                continue
            stand, before = self.history.stands[number - 1], self.history.stands[number - 2]
            prefix = f"rollout/{self.site.name}/prepared/{before.proposal:08d}/"
            records = [
                json.loads(kept.body)
                for key, kept in self.disk.objects.items()
                if key.startswith(prefix) and kept.at <= stand.since
            ]
            ready = [one for one in records if one["ok"] and set(one["members"]) >= set(self.site.roles)]
            named = fields["version_set"]
            if before.proposed != named or len(ready) < self.site.quorum:
                yield f"entry {number} starts {named[:8]}, which {len(ready)} of {self.site.quorum} nodes had prepared"
            if named in self.site.damaged:
                yield f"entry {number} starts {named[:8]}, of which a member is damaged"

    # 11
    def audited(self) -> Iterator[str]:
        mine = words_of(self.history.stands[-1]) if self.history.stands else {}
        for word, value in self.log.final.items():
            if mine.get(word) != value:
                yield f"the library's replay says {word}={value!r}, the entries say {mine.get(word)!r}"
        for what, found in self.log.tampered.items():
            if not found:
                yield f"a journal with {what} was not found out"

    def _routed(self) -> Iterable[UnitRecord]:
        return (unit for unit in self.log.units if unit.version_set and not unit.failure)

    def _turns(self) -> Iterable[UnitRecord]:
        return (unit for unit in self._routed() if unit.session is not None)

    def _starts(self) -> Iterator[UnitRecord]:
        """Requests that start a unit of work: those without session, and the first turn of each pin of a session."""
        begun: set[tuple[str, str, int]] = set()
        for unit in sorted(self._routed(), key=lambda unit: unit.started_at):
            if unit.session is None:
                yield unit
            elif (unit.session, unit.version_set, unit.trial) not in begun:
                begun.add((unit.session, unit.version_set, unit.trial))
                yield unit

    def _troubles(self, router: str) -> list[Trouble]:
        return [trouble for trouble in self.site.troubles if trouble.process in (None, router)]

    def _was_well(self, unit: UnitRecord) -> bool:
        """Whether a router had its store for so long that its plan must be fresh."""
        begin = unit.started_at - _RECOVERY_SECONDS
        if self.site.born.get(unit.router, 0.0) > begin:
            return False
        # A slow call may continue long after its time of trouble.
        return not any(
            trouble.begin < unit.started_at and begin < trouble.end + _hangs(trouble)
            for trouble in self._troubles(unit.router)
        )

    def _last_well(self, router: str, seconds: float) -> float:
        """The last moment up to `seconds` at which a router's store answered."""
        for trouble in sorted(self._troubles(router), key=lambda trouble: -trouble.begin):
            if trouble.begin <= seconds <= trouble.end + _hangs(trouble):
                seconds = trouble.begin
        return seconds


def _session_pins(disk: Disk, name: str) -> dict[str, list[tuple[dict[str, Any], Kept]]]:
    """Session digest → its pins in order."""
    prefix = f"rollout/{name}/sessions/"
    chains: dict[str, list[tuple[dict[str, Any], Kept]]] = defaultdict(list)
    for key in sorted(key for key in disk.objects if key.startswith(prefix)):
        chains[key.split("/")[-2]].append((disk.json(key), disk.objects[key]))
    return dict(chains)


def _hangs(trouble: Trouble) -> float:
    """How long a call that began in a time of trouble may continue after it."""
    return 45.0 if trouble.hangs_on else 1.0


def _is_claim(key: str) -> bool:
    return key.startswith("claims/") and "/runs/" not in key and not key.endswith(".settled.json")


def _name(unit: UnitRecord) -> str:
    what = f"turn of session {unit.session}" if unit.session else f"unit {unit.unit}"
    return f"{what} at {unit.router}, {unit.started_at:.3f} s"


def _short(pin: Mapping[str, Any]) -> str:
    return str(pin["version_set"])[:8]
