"""Chaos in a real fleet: runs of mixed demand, random kills, and what must be true at the end."""

import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from threading import Event
from typing import Any

from dagster import DagsterRun, DagsterRunStatus, RunsFilter
from dagster._core.execution.stats import StepEventStatus
from dagster._core.storage.tags import MAX_RETRIES_TAG, PRIORITY_TAG

from headrace.placement.demand import GPU_MEMORY_MIB, GPUS, PREEMPTIBLE, QUEUE
from simulation.chaos.deployment import JOB, Deployment, attempts_of, is_over
from simulation.chaos.observer import OnDevices
from simulation.dagster_site import NotStarted

NUM_GPUS = 4
KINDS = {"daemon": 10, "process of a run": 16, "template": 4, "code server": 3, "cancel": 7}
_STARVED_SECONDS = 60.0
# A daemon's time until its first look at the queue, on a machine with two busy cores.
_DAEMON_START_SECONDS = 30.0
# After the last run's end: the grace, one look of the monitoring, and one of the coordinator.
_SETTLE_SECONDS = 60.0
_MAX_RETRIES = 3
_UNDER_WAY = [DagsterRunStatus.STARTING, DagsterRunStatus.STARTED, DagsterRunStatus.CANCELING]


@dataclass(kw_only=True)
class Verdict:
    """One sentence for each finding."""

    violations: list[str] = field(default_factory=list)
    leaked: list[str] = field(default_factory=list)
    starved: list[str] = field(default_factory=list)
    nonterminal: list[str] = field(default_factory=list)

    def counts(self) -> dict[str, int]:
        return {name: len(found) for name, found in vars(self).items()}


def demand_of(chance: random.Random) -> tuple[dict[str, str], dict[str, Any]]:
    """Tags and op config of one run."""
    kinds: list[dict[str, str]] = [
        {},
        {GPUS: "1"},
        {GPUS: "2"},
        {GPUS: "4"},
        {GPUS: "0.25"},
        {GPUS: "0.5"},
        {GPUS: "0.1", GPU_MEMORY_MIB: "30000"},
    ]
    tags = dict(chance.choices(kinds, weights=(15, 30, 15, 8, 12, 10, 10))[0])
    config: dict[str, Any] = {"seconds": chance.uniform(0.1, 2.0)}
    if chance.random() < 0.3:
        tags[QUEUE] = chance.choice(("interactive", "batch"))
    if chance.random() < 0.15:
        tags[PRIORITY_TAG] = chance.choice(("-1", "1", "5"))
    if chance.random() < 0.2:
        tags[PREEMPTIBLE] = "true"
        config["seconds"] = chance.uniform(4.0, 10.0)
    if chance.random() < 0.25:
        # Processes that outlive their run's grace must be killed.
        config["leave_behind_seconds"] = chance.choice((1.0, 600.0))
    return tags, config


@dataclass(kw_only=True)
class Starvation:
    """How long each queued run has waited although enough GPUs are idle; pure, fed once a look."""

    gpus_by_run: dict[str, float]
    idle_since: dict[str, float] = field(default_factory=dict)
    starved: dict[str, float] = field(default_factory=dict)

    def look(self, now: float, queued: set[str], num_idle: int, *, is_open: bool) -> None:
        """`is_open`: the daemon runs, and Dagster's own limit has a free slot."""
        for run_id in set(self.idle_since) - queued:
            del self.idle_since[run_id]
        for run_id in queued:
            if not is_open or num_idle < self.gpus_by_run.get(run_id, 0.0):
                self.idle_since.pop(run_id, None)
                continue
            waited = now - self.idle_since.setdefault(run_id, now)
            if waited > _STARVED_SECONDS:
                self.starved[run_id] = max(self.starved.get(run_id, 0.0), waited)


def num_idle_gpus(processes: list[OnDevices]) -> int:
    return NUM_GPUS - len({device for process in processes for device in process.devices})


@dataclass(kw_only=True)
class Chaos:
    site: Deployment
    chance: random.Random
    num_runs: int
    num_kills: int
    time_limit_seconds: float
    first_runs: list[str] = field(default_factory=list)
    canceled: set[str] = field(default_factory=set)
    kills: Counter[str] = field(default_factory=Counter)
    starvation: Starvation = field(default_factory=lambda: Starvation(gpus_by_run={}))
    began: float = field(default_factory=time.monotonic)
    interrupted: Event = field(default_factory=Event)
    say: Callable[[str], object] = print

    def run(self) -> Verdict:
        # By progress, not by time, so that a slow machine gets as many kills as a fast one.
        due = sorted(self.chance.uniform(0.0, 0.95) * self.num_runs for _ in range(self.num_kills))
        kinds = self.chance.choices(list(KINDS), weights=list(KINDS.values()), k=self.num_kills)
        done, last_shown = 0, -1
        while not self._is_time_up():
            self._submit_more(done)
            runs = list(self.site.instance.get_runs(RunsFilter(job_name=JOB)))
            self._look(runs)
            chains = attempts_of(runs)
            done = sum(is_over(chain[-1]) for chain in chains.values())
            if done // 10 != last_shown:
                last_shown = done // 10
                self.say(f"{done} of {self.num_runs} ended, {sum(self.kills.values())} kills …")
            if due and done + len(self._under_way(runs)) >= due[0]:
                time.sleep(self.chance.uniform(0.0, 1.0))
                if self._hurt(kinds[0], runs):
                    self.kills[kinds[0]] += 1
                    due.pop(0)
                    kinds.pop(0)
                elif not self._under_way(runs) and done == self.num_runs:
                    due.clear()  # nothing is left to kill
            if self.site.daemon_ended():
                raise NotStarted(f"The daemon ended by itself; its log: {self.site.directory / 'daemon.log'}.")
            if len(self.first_runs) == self.num_runs and done == self.num_runs and not due:
                break
            time.sleep(0.3)
        return self._verdict()

    def _is_time_up(self) -> bool:
        if self.interrupted.is_set():
            raise KeyboardInterrupt
        return time.monotonic() - self.began > self.time_limit_seconds

    def _submit_more(self, done: int) -> None:
        """Keeps the queue nonempty, but so short that kills do not only meet the first runs."""
        while len(self.first_runs) < min(self.num_runs, done + 30):
            tags, config = demand_of(self.chance)
            run_id = self.site.submit(tags, config)
            self.first_runs.append(run_id)
            self.starvation.gpus_by_run[run_id] = float(tags.get(GPUS, "0"))

    def _under_way(self, runs: list[DagsterRun]) -> list[DagsterRun]:
        return [run for run in runs if run.status in _UNDER_WAY]

    def _look(self, runs: list[DagsterRun]) -> None:
        queued = set()
        for run in runs:
            if run.status == DagsterRunStatus.QUEUED:
                queued.add(run.run_id)
                self.starvation.gpus_by_run.setdefault(run.run_id, float(run.tags.get(GPUS, "0")))
        up = time.monotonic() - self.site.daemon_started_at > _DAEMON_START_SECONDS
        is_open = up and len(self._under_way(runs)) < 8
        self.starvation.look(time.monotonic(), queued, num_idle_gpus(self.site.kernel.processes()), is_open=is_open)

    def _hurt(self, kind: str, runs: list[DagsterRun]) -> bool:
        if kind == "daemon":
            return self.site.restart_daemon()
        if kind == "code server":
            return self.site.restart_code_server()
        if kind == "template":
            return self.site.kill_template()
        if kind == "process of a run":
            return self.site.kill_worker(self.chance)
        alive = sorted((run for run in runs if not run.is_finished), key=lambda run: run.run_id)
        if not alive:
            return False
        run = self.chance.choice(alive)
        self.canceled.add(run.run_id)
        return self.site.cancel(run)

    def _verdict(self) -> Verdict:
        verdict = Verdict()
        self._settle()
        runs = list(self.site.instance.get_runs(RunsFilter(job_name=JOB)))
        for chain in attempts_of(runs).values():
            why = self._unfinished(chain)
            if why:
                verdict.nonterminal.append(why)
        verdict.starved += [
            f"run {run_id} waited {seconds:.0f} s beside idle GPUs"
            for run_id, seconds in self.starvation.starved.items()
        ]
        verdict.leaked += [f"process {left.pid} of run {left.run_id} is left" for left in self.site.kernel.processes()]
        verdict.leaked += self._whole_fleet_is_free()
        reports = self.site.directory / "devices/violations"
        if reports.exists():
            verdict.violations += reports.read_text().splitlines()
        return verdict

    def _settle(self) -> None:
        deadline = time.monotonic() + _SETTLE_SECONDS
        while time.monotonic() < deadline and self.site.kernel.processes():
            time.sleep(0.5)

    def _unfinished(self, chain: list[DagsterRun]) -> str | None:
        last = chain[-1]
        what = f"run {chain[0].run_id}, attempt {len(chain)} ({last.run_id}) is {last.status.value}"
        if last.status == DagsterRunStatus.SUCCESS:
            return None
        if last.status == DagsterRunStatus.CANCELED:
            return None if last.run_id in self.canceled else f"{what}, and nobody canceled it"
        # Each preemption allows a run one more attempt.
        num_attempts = 1 + int(last.tags.get(MAX_RETRIES_TAG, _MAX_RETRIES))
        if is_over(last) and (len(chain) >= num_attempts or last.run_id in self.canceled):
            return None
        # Killed between its last step's end and its own: Dagster retries from failure, and finds nothing to retry.
        if is_over(last) and self._has_done_all(last):
            return None
        return f"{what}: {last.tags.get('headrace/why', '')}"

    def _has_done_all(self, run: DagsterRun) -> bool:
        steps = self.site.instance.get_run_step_stats(run.run_id)
        return bool(steps) and all(step.status == StepEventStatus.SUCCESS for step in steps)

    def _whole_fleet_is_free(self) -> list[str]:
        """One more run takes all GPUs: any remaining promise would keep it waiting."""
        probe = self.site.submit({GPUS: str(NUM_GPUS)}, {"seconds": 0.1})
        seconds_max, why = _DAEMON_START_SECONDS + _SETTLE_SECONDS, ""
        deadline = time.monotonic() + seconds_max
        while time.monotonic() < deadline:
            run = self.site.instance.get_run_by_id(probe)
            if run and run.is_finished:
                return (
                    [] if run.status == DagsterRunStatus.SUCCESS else [f"the last run on all GPUs: {run.status.value}"]
                )
            why = run.tags.get("headrace/why", "") if run else ""
            time.sleep(0.3)
        return [f"the last run, on all GPUs, was not done in {seconds_max:g} s: {why}"]
