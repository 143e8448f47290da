"""Events into an inbox:

    python -m benchmarks.inbox [--rounds 3] [--seconds 8] [--peers jetstream,redis] [--bin DIR]
    python -m benchmarks.inbox --event-time [--seeds 1000] [--first-seed 0] [--kills 1] [--peers pathway]
                               [--peer-seeds 100]
    python -m benchmarks.inbox --backlog [--events 1000000]
    python -m benchmarks.inbox --batches [--batch-kills 100]
    python -m benchmarks.inbox --steps [--rounds 3] [--seconds 8] [--peers restate,dbos,temporal] [--bin DIR]

`intake` (the default): how many events of 1 KiB a gateway takes a second over its port, each on the disk before it is
acknowledged, from 64 connections of 4 processes: singly, and in requests of 1,000. Beside it JetStream (`sync_interval:
always`, atomic batches) and Redis streams (`appendfsync always`, pipelines), each in several shapes, of which the best
one counts. The systems run one after the other, in turns, each with a new directory on the same disk; all clients speak
their protocol by hand. The gateway checks each event, knows repeated ones, puts events into windows and seals these
meanwhile; the peers do none of that.

`--event-time`: `--seeds` streams of 300 events of three sources, out of order by up to 10 s, 1% later than allowed, 2%
twice, some with a clock that is a year ahead. A process takes and seals each stream, and is killed (-9) `--kills` times
after some event; its producer sends again what it does not know to be taken. The sealed windows are compared with an
oracle that sees the whole stream at once and shares no code. Each event is a transaction: `TMPDIR=/dev/shm` spares the
disk, which no kill of a process needs. Beside it Pathway, with the first `--peer-seeds` of the same streams through
windows that it gives out once, and without any kill: what it drops, and has twice, is shown.

`--backlog`: `--events` of one day come in at once, in requests of 1,000, and wait; how many runs they become, how long
a tick of the sensor takes that asks for these (evaluated, made and queued by Dagster's own daemon code), and what
gateway and ticks need of memory. Beside it a stock sensor that asks for a run an event, on 2,000.

`--batches`: two clients of OpenAI's package upload files, begin batches of up to 200 lines and cancel some, while their
gateway is killed (-9) `--batch-kills` times, each time at another moment, and started again. At the end every batch
that is there, acknowledged or not, is compared with its file: each `custom_id` once, in the output or among the errors,
and no answer of status 500 or more in all that time.

`--steps`: units of five steps, each of whose results (250 bytes) is on the disk before the next one begins: alone, and
at the concurrency at which a system takes most. Ours are turn events of a gateway's log (`Intake.keep`), awaited one by
one, in groups. Beside it Restate (server 1.7, a service in Python that its server calls, asked over its ingress), DBOS
(Python, in threads, on Postgres with `fsync` and `synchronous_commit` on) and Temporal's development server (on SQLite;
not its production database). Ours and DBOS run within the process that wants the steps, the others are asked over a
port: so they are used. A step has no work of its own, and no system does anything else for it.

JetStream, Pathway, Temporal, and the clients of Restate and DBOS come with `make bench-setup`; Redis and Postgres are
the system's (`redis-server`, `postgres`), or in a directory given with --bin. Restate's server is on npm: `npm install
--prefix DIR @restatedev/restate-server-linux-x64@1.7.12`, and --bin names the directory of its `restate-server`.

Prints a table, then one line of JSON; exit status 1 if a bar is not met.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.inbox.backlog import BacklogOptions, measure_backlog
from benchmarks.inbox.batches import BatchOptions, measure_batches
from benchmarks.inbox.event_time import EventTimeOptions, measure_event_time
from benchmarks.inbox.intake import IntakeOptions, measure_intake
from benchmarks.inbox.steps import systems as step_systems
from benchmarks.inbox.steps.measure import StepOptions, measure_steps
from benchmarks.inbox.systems import OURS, PEERS
from benchmarks.measuring import parser_of, require_peers, whole
from benchmarks.parts import run_parts
from benchmarks.programs import add_peer_options, with_programs
from pipelines.setup import DURABLE, PATHWAY

# Where Debian has Postgres's programs.
POSTGRES = sorted(Path("/usr/lib/postgresql").glob("*/bin"))


@dataclass(frozen=True, kw_only=True)
class _Interpreter:
    """A peer that is a package, in an environment of its own; `program`: its interpreter."""

    name: str
    program: str


_EVENT_TIME_PEERS = {"pathway": _Interpreter(name="pathway", program=str(PATHWAY / "bin/python"))}


def main(arguments: Sequence[str] | None = None) -> int:
    options = _options(arguments)
    if options.backlog:
        return run_parts("inbox", {"backlog": measure_backlog}, ["backlog"], BacklogOptions.of(options), options.json)
    if options.batches:
        return run_parts("inbox", {"batches": measure_batches}, ["batches"], BatchOptions.of(options), options.json)
    peers = with_programs(options.known, options.peers, [*options.bin, DURABLE / "bin", *POSTGRES])
    if peers is None:
        return 2
    if options.event_time:
        options.pathway = Path(peers[0][1]) if peers else None
        given = EventTimeOptions.of(options)
        return run_parts("inbox", {"event_time": measure_event_time}, ["event_time"], given, options.json)
    if options.steps:
        options.systems = ((step_systems.OURS, step_systems.OURS.program), *peers)
        return run_parts("inbox", {"steps": measure_steps}, ["steps"], StepOptions.of(options), options.json)
    options.systems = ((OURS, OURS.program), *peers)
    return run_parts("inbox", {"intake": measure_intake}, ["intake"], IntakeOptions.of(options), options.json)


def _peers(options: argparse.Namespace) -> Mapping[str, Any]:
    if options.event_time:
        return _EVENT_TIME_PEERS
    if not options.steps:
        return PEERS
    if not (DURABLE / "bin/python").exists():
        # What is named is required; what is not is left out.
        require_peers({peer: DURABLE for peer in options.peers or () if peer != "none"})
        print("Restate, DBOS and Temporal are not installed (make bench-setup): left out.", file=sys.stderr)
        return {}
    return step_systems.PEERS


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = parser_of("inbox", __doc__)
    parser.add_argument("--event-time", action="store_true", help="windows against an oracle, instead of intake")
    parser.add_argument("--backlog", action="store_true", help="from a million events to runs, instead of intake")
    parser.add_argument("--events", type=whole(), default=1_000_000, help="of the backlog")
    parser.add_argument("--batches", action="store_true", help="OpenAI's batches under kills, instead of intake")
    parser.add_argument("--batch-kills", type=whole(), default=100)
    parser.add_argument("--rounds", type=whole(), default=3, help="of each system and shape")
    parser.add_argument("--seconds", type=float, default=8.0, help="of a round, after its warm-up")
    parser.add_argument("--seeds", type=whole(), default=1_000)
    parser.add_argument("--first-seed", type=whole(0), default=0, help="the others follow it")
    parser.add_argument("--kills", type=whole(0), default=1, help="of each seed")
    parser.add_argument("--steps", action="store_true", help="units of five durable steps, instead of intake")
    parser.add_argument("--peer-seeds", type=whole(), default=100, help="of Pathway, with --event-time")
    add_peer_options(parser, [*PEERS, *step_systems.PEERS, *_EVENT_TIME_PEERS])
    options = parser.parse_args(arguments)
    options.known = _peers(options)
    if others := set(options.peers or ()) - {*options.known, "none"}:
        parser.error(f"{', '.join(sorted(others))} is no peer of that; --peers may be {', '.join(options.known)}")
    return options


if __name__ == "__main__":
    sys.exit(main())
