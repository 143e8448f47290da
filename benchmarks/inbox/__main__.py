"""Events into an inbox:

    python -m benchmarks.inbox [--rounds 3] [--seconds 8] [--peers jetstream,redis] [--bin DIR]
    python -m benchmarks.inbox --event-time [--seeds 1000] [--first-seed 0] [--kills 1]
    python -m benchmarks.inbox --backlog [--events 1000000]
    python -m benchmarks.inbox --batches [--batch-kills 100]

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
disk, which no kill of a process needs.

`--backlog`: `--events` of one day come in at once, in requests of 1,000, and wait; how many runs they become, how long
a tick of the sensor takes that asks for these (evaluated, made and queued by Dagster's own daemon code), and what
gateway and ticks need of memory. Beside it a stock sensor that asks for a run an event, on 2,000.

`--batches`: two clients of OpenAI's package upload files, begin batches of up to 200 lines and cancel some, while their
gateway is killed (-9) `--batch-kills` times, each time at another moment, and started again. At the end every batch
that is there, acknowledged or not, is compared with its file: each `custom_id` once, in the output or among the errors,
and no answer of status 500 or more in all that time.

JetStream comes with `make bench-setup`; Redis is the system's (`redis-server`), or in a directory given with --bin.

Prints a table, then one line of JSON; exit status 1 if a bar is not met.
"""

import argparse
import sys
from collections.abc import Sequence

from benchmarks.inbox.backlog import BacklogOptions, measure_backlog
from benchmarks.inbox.batches import BatchOptions, measure_batches
from benchmarks.inbox.event_time import EventTimeOptions, measure_event_time
from benchmarks.inbox.intake import IntakeOptions, measure_intake
from benchmarks.inbox.systems import OURS, PEERS
from benchmarks.measuring import parser_of, whole
from benchmarks.parts import run_parts
from benchmarks.programs import add_peer_options, with_programs


def main(arguments: Sequence[str] | None = None) -> int:
    options = _options(arguments)
    if options.event_time:
        given = EventTimeOptions.of(options)
        return run_parts("inbox", {"event_time": measure_event_time}, ["event_time"], given, options.json)
    if options.backlog:
        return run_parts("inbox", {"backlog": measure_backlog}, ["backlog"], BacklogOptions.of(options), options.json)
    if options.batches:
        return run_parts("inbox", {"batches": measure_batches}, ["batches"], BatchOptions.of(options), options.json)
    peers = with_programs(PEERS, options.peers, options.bin)
    if peers is None:
        return 2
    options.systems = ((OURS, OURS.program), *peers)
    return run_parts("inbox", {"intake": measure_intake}, ["intake"], IntakeOptions.of(options), options.json)


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
    add_peer_options(parser, PEERS)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
