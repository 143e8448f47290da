"""A gang over several hosts, from the run worker's side: it asks their agents through the store, and hears them there.

Each host runs an agent (`headrace.training.host_agent`), which starts its share of the ranks. A host that says nothing
for `silence_seconds` is lost: the gang ends, the other hosts' ranks are killed, and the run's retry resumes from the
last checkpoint. An agent that does not hear the run worker for as long kills its ranks, too.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from headrace.errors import InvalidTrainingRun
from headrace.store.objects import ObjectStore
from headrace.training.gang_report import GangReport, RankReport
from headrace.training.gang_store import (
    GangObjects,
    GangTask,
    HostSays,
    Notice,
    Words,
    WorkerSays,
    notify,
    rows_of,
)
from headrace.training.run_config import RunConfig

Rows = list[dict[str, Any]]

SILENCE_SECONDS = 30.0
# Once a host's ranks have ended badly, those of the others end too, as soon as they see it.
_LAST_WORDS_SECONDS = 15.0
_POLL_SECONDS = 0.5


@dataclass
class _Host:
    name: str
    words: Words[HostSays]
    ranks: range
    heard_at: float
    end: GangReport | None = None
    stuck: GangReport | None = None

    def silent_for(self) -> float:
        return time.monotonic() - self.heard_at


class HostsRunner:
    """See the protocol, `headrace.training.gang_runner.GangRunner`."""

    def __init__(
        self,
        config: RunConfig,
        store: ObjectStore,
        hosts: Sequence[str],
        *,
        silence_seconds: float = SILENCE_SECONDS,
    ) -> None:
        """Args: hosts: their agents' names; ranks follow in this order, as many on each.

        Raises:
            InvalidTrainingRun: the ranks cannot be divided among the hosts, or one is named twice.
        """
        if len(set(hosts)) < len(hosts):
            raise InvalidTrainingRun(f"hosts must name each host's agent once, got {', '.join(hosts)}.")
        each, rest = divmod(config.world_size, len(hosts))
        if rest or not each:
            raise InvalidTrainingRun(
                f"Recipe {config.recipe.key}: {config.world_size} ranks do not divide among {len(hosts)} hosts "
                f"({', '.join(hosts)}); set ranks to a multiple of {len(hosts)}."
            )
        self._config, self._store = config, store
        self._silence = silence_seconds
        self._objects = GangObjects(store, config.training_id, config.attempt)
        self._worker = self._objects.worker()
        self._said_at = 0.0
        self._rows: Rows = []
        self._beats: dict[int, tuple[int, int]] = {}
        self._bad_at: float | None = None
        self._hosts = [
            _Host(name, self._objects.host(name), range(number * each, (number + 1) * each), 0.0)
            for number, name in enumerate(hosts)
        ]

    @classmethod
    def on(
        cls, store: ObjectStore, hosts: Sequence[str], *, silence_seconds: float = SILENCE_SECONDS
    ) -> Callable[[RunConfig, Mapping[str, str]], "HostsRunner"]:
        """As a `Workplace` wants it. The ranks' environment is their agents', not the run worker's."""
        return lambda config, environment: cls(config, store, hosts, silence_seconds=silence_seconds)

    def start(self) -> None:
        names = tuple(host.name for host in self._hosts)
        run_json = self._config.text().decode()
        self._objects.create_task(GangTask(run_json=run_json, hosts=names, silence_seconds=self._silence))
        self._say(WorkerSays())
        for host in self._hosts:
            host.heard_at = time.monotonic()
            notify(self._store, host.name, Notice(training_id=self._config.training_id, attempt=self._config.attempt))

    def progress(self) -> Rows:
        rows, self._rows = self._rows, []
        return rows

    def reached(self) -> dict[int, tuple[int, int]]:
        return dict(self._beats)

    def ended(self, seconds: float) -> bool:
        until = time.monotonic() + seconds
        while True:
            self._listen()
            if self._is_over():
                return True
            if time.monotonic() - self._said_at > self._silence / 6:
                self._say(WorkerSays())
            if (left := until - time.monotonic()) <= 0:
                return False
            time.sleep(min(left, _POLL_SECONDS))

    def report(self, *, is_stuck: bool = False) -> GangReport:
        if is_stuck:
            self._say(WorkerSays(asks_stacks=True))
            self._wait(lambda host: host.stuck or host.end)
        told = {host.name: host.end or host.stuck for host in self._hosts}
        codes = [one.exit_code for one in told.values() if one and one.exit_code is not None]
        ranks: list[RankReport] = []
        for host in self._hosts:
            report = told[host.name]
            found = {rank.rank: rank for rank in report.ranks} if report else {}
            ranks += [replace(found.get(rank, RankReport(rank=rank)), host=host.name) for rank in host.ranks]
        # Of several hosts none knows which rank of all was the first; a host that has only lost peers does not count.
        firsts = [one.first_exit for one in told.values() if one and one.first_exit is not None]
        return GangReport(
            ranks=tuple(ranks),
            exit_code=next((code for code in codes if code), 0 if len(codes) == len(self._hosts) else None),
            first_exit=firsts[0] if len(firsts) == 1 else None,
            launcher_lines=next((one.launcher_lines for one in told.values() if one and one.exit_code), ()),
            oom_kills=sum(one.oom_kills for one in told.values() if one),
            lost_hosts=tuple((host.name, host.silent_for()) for host in self._hosts if self._is_lost(host)),
            lock=next((one.lock for one in told.values() if one and one.lock), None),
        )

    def kill(self) -> None:
        self._say(WorkerSays(stop=True))
        self._wait(lambda host: host.end)
        self._objects.delete()

    def _listen(self) -> None:
        for host in self._hosts:
            for word in host.words.new():
                host.heard_at = time.monotonic()
                self._rows += rows_of(word.rows)
                self._beats |= {rank: (step, point) for rank, step, point in word.beats}
                if word.has_ended:
                    host.end = word.report
                elif word.report:
                    host.stuck = word.report

    def _is_over(self) -> bool:
        if all(host.end for host in self._hosts) or any(map(self._is_lost, self._hosts)):
            return True
        if any(host.end and host.end.exit_code for host in self._hosts):
            self._bad_at = self._bad_at or time.monotonic()
            # A host whose machine is gone says nothing: it is waited for until it counts as lost.
            quiet = any(not host.end and host.silent_for() > self._silence / 3 for host in self._hosts)
            return not quiet and time.monotonic() - self._bad_at > _LAST_WORDS_SECONDS
        return False

    def _is_lost(self, host: _Host) -> bool:
        return host.end is None and host.silent_for() > self._silence

    def _wait(self, is_told: Callable[[_Host], object]) -> None:
        """Until every host has told, or is lost."""
        until = time.monotonic() + self._silence
        while time.monotonic() < until:
            self._listen()
            if all(is_told(host) or self._is_lost(host) for host in self._hosts):
                return
            time.sleep(_POLL_SECONDS / 2)

    def _say(self, word: WorkerSays) -> None:
        self._worker.say(word)
        self._said_at = time.monotonic()
