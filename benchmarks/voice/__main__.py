"""Spoken turns:

    python -m benchmarks.voice [--only frames,turns,kills,seeds,chain] [--seconds 10] [--kills 100]

`frames`: what a frame of 20 ms costs on its way through five pass-through stages, and how late it comes out: a process
on one core, all of whose calls get a frame every 20 ms. Ours goes from a ring through the stages of a lane into a ring;
Pipecat's through five processors of a pipeline for each call. Calls: `--calls` for us, `--peer-calls` for Pipecat. CPU
is that of the whole process, with the side that makes the frames.

`turns`: 1,000 calls on one gateway's log (SQLite, a wait for the disk at every commit), each with a turn event at a
time, in the order of a conversation: as fast as they go, which is the capacity, and at an offered rate of 2,100 events
a second, whether they are kept in time or not. Each is kept in the log, and the call in the store, as in a gateway.
Added time: from when an event is offered until it is kept, at the offered rate. Beside it the same events of the same
calls in JetStream (`sync_interval: always`, a file stream, over one connection by its protocol): each a message; and,
as our log does, what waits as one atomic batch. A peer whose capacity is below the rate has no added time there. All on
the same disk, in turns; TMPDIR=/dev/shm shows the same without a disk.

`kills`: calls with barge-ins anywhere through two gateways, one of which is killed (-9) again and again; the clients
come back to the other (`simulation.killed_calls`).

`seeds`: the same without processes, in simulated time: written and spoken turns, barge-ins by voice and by cancelling,
connections that break while their gateway lives, gateways killed at any moment (`simulation.simulated_calls`). Both say
what would be a fault (`simulation.talking`): a stale sentence, a turn lost or said twice, a context that is not what
was played.

`chain`: 12 spoken prompts, made by the product's own voice, through Whisper tiny.en, the echo engine and hibari in a
gateway: time from the end of the turn to the first audio, against the same models asked one after another without a
gateway, interleaved; word error rate against faster-whisper alone.

Pipecat comes with `make bench-setup`. Prints tables, then one line of JSON; exit status 1 if a bar is not met.
"""

import argparse
import sys
from collections.abc import Sequence

from benchmarks.measuring import parser_of, some_of, whole
from benchmarks.parts import run_parts
from benchmarks.voice.chain import measure_chain
from benchmarks.voice.frames import measure_frames
from benchmarks.voice.kills import measure_kills
from benchmarks.voice.options import VoiceOptions
from benchmarks.voice.seeds import measure_seeds
from benchmarks.voice.turns import measure_turns

_PARTS = {
    "frames": measure_frames,
    "turns": measure_turns,
    "kills": measure_kills,
    "seeds": measure_seeds,
    "chain": measure_chain,
}


def main(arguments: Sequence[str] | None = None) -> int:
    options = _options(arguments)
    return run_parts("voice", _PARTS, options.only or _PARTS, VoiceOptions.of(options), options.json)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = parser_of("voice", __doc__)
    parser.add_argument("--only", type=some_of(_PARTS), help=f"by commas: {', '.join(_PARTS)}")
    parser.add_argument("--seconds", type=float, default=10.0, help="of a measurement, after its warm-up")
    parser.add_argument("--calls", type=whole(), default=200, help="of ours on a core, in `frames`")
    parser.add_argument("--peer-calls", type=whole(), default=20, help="of Pipecat's on a core, in `frames`")
    parser.add_argument("--rounds", type=whole(), default=2, help="of each side, in `frames`")
    parser.add_argument("--kills", type=whole(0), default=100)
    parser.add_argument("--seed", type=whole(0), default=1, help="of `kills` and `seeds`")
    parser.add_argument("--seeds", type=whole(), default=1_000, help="how many schedules")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
