"""Whether windows hold what they must: many seeded streams, with a writer and a sealer that are killed."""

import os
import random
import shutil
import signal
import time
from dataclasses import dataclass
from datetime import UTC
from pathlib import Path
from typing import Any

from benchmarks.inbox.event_time_peer import PeerJudged, judge_pathway
from benchmarks.measuring import at_least, at_most, print_table, progress
from benchmarks.parts import Options, Outcome
from headrace.clock import FixedClock
from headrace.inbox.kept import warm_up
from headrace.inbox.log import EventLog
from headrace.inbox.rules import InboxRules
from headrace.inbox.sealing import Sealer
from headrace.store.local import LocalStore
from simulation.event_oracle import expected_windows
from simulation.event_streams import SECOND, Sent, StreamShape, stream
from simulation.inbox_site import CAMPAIGN, event_of, seal_all, sealed_spans, time_rules

_RULES = InboxRules(window_seconds=10, lateness_seconds=10.0, idle_seconds=45.0, rows_max=200)
# Events that the sealer waits for.
_NUM_A_SEAL = 60
# After the event at which a process is killed: some of its own time, the middle of sealing among it.
_KILL_SECONDS = 0.015
_LOOK_SECONDS = 0.0005
_NUM_SEEDS_A_LINE = 50


@dataclass(frozen=True, kw_only=True)
class EventTimeOptions(Options):
    """`first_seed`: so that many seeds can be run in parts.
    `pathway`: the interpreter that has it, for `peer_seeds` of the seeds; None: it is left out."""

    seeds: int
    first_seed: int
    kills: int
    pathway: Path | None = None
    peer_seeds: int = 0


@dataclass
class Judged:
    """Over all seeds. `wrong`: seeds whose windows are not the oracle's."""

    num_events: int = 0
    num_late: int = 0
    num_lost: int = 0
    num_twice: int = 0
    num_kills: int = 0
    wrong: int = 0


def measure_event_time(given: EventTimeOptions, directory: Path) -> Outcome:
    judged = Judged()
    # Once, and not in each process, which would be killed while it imports.
    warm_up()
    for number in range(given.seeds):
        where = directory / str(number)
        _judge(given.first_seed + number, given.kills, where, judged)
        shutil.rmtree(where)
        if (number + 1) % _NUM_SEEDS_A_LINE == 0:
            progress.print(f"event time: {number + 1} of {given.seeds} seeds, {judged.wrong} wrong")
    peers = judge_pathway(given.pathway, given.peer_seeds, _RULES) if given.pathway else {}
    _print(given, judged, peers)
    body: dict[str, Any] = {
        "seeds": given.seeds,
        "first_seed": given.first_seed,
        **vars(judged),
        "peers": {name: vars(one) for name, one in peers.items()},
    }
    bars = {
        "event_time_wrong": at_most(judged.wrong, 0),
        "event_time_lost": at_most(judged.num_lost, 0),
        "event_time_twice": at_most(judged.num_twice, 0),
        # Otherwise nothing was shown.
        "event_time_late": at_least(judged.num_late, given.seeds // 2),
        "event_time_kills": at_least(judged.num_kills, given.seeds * given.kills // 2),
    }
    return Outcome(body=body, bars=bars)


def _print(given: EventTimeOptions, judged: Judged, peers: dict[str, PeerJudged]) -> None:
    ours = (given.seeds, judged.num_events, judged.num_lost, 0, judged.num_twice, judged.num_kills, judged.wrong)
    rows = [["headrace", *(f"{number:,}" for number in ours)]]
    for name, one in peers.items():
        figures = (one.seeds, one.events, one.lost_on_time, one.lost_late, one.twice, 0, one.wrong)
        rows.append([name, *(f"{number:,}" for number in figures)])
    print_table(
        "Windows of 10 s, 10 s of lateness; each event once, late ones apart",
        ["", "seeds", "events", "lost", "late ones lost", "twice", "kills", "seeds unlike the oracle"],
        rows,
        caption="Pathway cuts late events off, and knows no event by its name: that is how it is meant.",
    )


def _judge(seed: int, num_kills: int, directory: Path, judged: Judged) -> None:
    directory.mkdir()
    sent = stream(seed, StreamShape())
    draw = random.Random(seed)
    for _ in range(num_kills):
        judged.num_kills += _run(sent, directory, (draw.randrange(len(sent)), draw.uniform(0, _KILL_SECONDS)))
    assert _run(sent, directory) == 0, f"seed {seed} was killed by nobody"
    wanted, found = expected_windows(sent, time_rules(_RULES)), sealed_spans(LocalStore(directory / "store"))
    ids = [one for spans in (found.on_time, found.late) for span in spans.values() for one in span]
    judged.num_events += len(ids)
    judged.num_late += sum(map(len, found.late.values()))
    judged.num_lost += len({one.id for one in sent} - set(ids))
    judged.num_twice += len(ids) - len(set(ids))
    judged.wrong += found != wanted


def _run(sent: list[Sent], directory: Path, kill: tuple[int, float] | None = None) -> bool:
    """A process that takes and seals the rest of the stream. Returns whether it was killed before its end.

    Args: kill: so many events are taken, and so many seconds later it is. By events, since a machine may be slow.
    """
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            _produce(sent, directory)
            status = 0
        finally:
            os._exit(status)
    ended, status = 0, 0
    if kill is not None:
        num_taken, seconds = kill
        while not ended and _num_taken(directory) < num_taken:
            time.sleep(_LOOK_SECONDS)
            ended, status = os.waitpid(pid, os.WNOHANG)
        time.sleep(seconds)
        if not ended:
            os.kill(pid, signal.SIGKILL)
    if not ended:
        _, status = os.waitpid(pid, 0)
    if os.WIFSIGNALED(status):
        return True
    assert os.WEXITSTATUS(status) == 0, f"The writer of {directory.name} failed."
    return False


def _num_taken(directory: Path) -> int:
    """Of which the producer knows that they are taken."""
    known = directory / "taken"
    return known.stat().st_size if known.exists() else 0


def _produce(sent: list[Sent], directory: Path) -> None:
    """The producer goes on after the last event of which it knows that it was taken."""
    at = _num_taken(directory)
    log = EventLog(directory / "log", {CAMPAIGN: _RULES})
    sealer = Sealer(LocalStore(directory / "store"), log.nonce, UTC, FixedClock())
    with (directory / "taken").open("ab", buffering=0) as taken:
        while at < len(sent):
            # Each in a transaction of its own: when it arrives is part of the rules.
            log.append([event_of(sent[at])], sent[at].arrives)
            taken.write(b".")
            at += 1
            if at % _NUM_A_SEAL == 0:
                seal_all(log, sealer)
    log.tick(sent[-1].arrives + 10_000 * SECOND)
    seal_all(log, sealer)
    log.close()
