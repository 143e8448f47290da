"""Every fault that a handoff is to survive, for real: `python -m benchmarks.handoff_faults --kills 1000 --flips 1000`.

`--power-loss 2000 [--of handoff|journal|claims|batches|weights]` instead loses power: states of the disk that a traced
piece of work may leave, by kind of object (`simulation.power_loss.kinds`). Its JSON has `states` by kind.

A writer or a collector is killed at each system call that touches the store; bits are flipped, files broken; disks and
limits run full; writers meet on one version; collectors run beside readers; readers are killed; a server answers 503.
After each of them a checker that knows what was sealed opens everything. Prints a table, then one line of JSON:
`kills`, `flips`, `torn`, `silent`, `lost`, `seconds`. Exit status 1: one of the three is not zero, or too few states
were tried. 2: this machine does not permit to trace system calls.
"""

import os
import signal
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from rich.progress import Progress

from benchmarks.measuring import Bars, at_least, at_most, finish, parser_of, print_table, progress, scratch, whole
from simulation.faults.cases import Tally
from simulation.faults.kills import break_files, flip_bits, kill_everywhere
from simulation.faults.processes import CASES, beside_readers, repeated
from simulation.power_loss.kinds import KINDS, lose_power
from simulation.system_calls.tracing import TracingRefused

# Fewer different states of one kind of object, or of all, say too little.
STATES_OF_A_KIND_MIN, STATES_MIN = 300, 2000
_WRONG = ("torn", "silent", "lost")


def run(root: Path, *, num_kills: int, num_flips: int, seed: int, s3: bool, bar: Progress) -> list[Tally]:
    """All kinds, each in a directory of its own below `root`."""
    num_others = max(num_kills // 20, 2)
    counted = partial(_counted, bar)
    tallies = kill_everywhere(root, num_kills, seed, counted("kills", num_kills))
    tallies.append(flip_bits(root, num_flips, seed, counted("flips", num_flips)))
    tallies.append(break_files(root, max(num_flips // 4, 12), seed, counted("broken files", max(num_flips // 4, 12))))
    for number, name in enumerate(CASES):
        tallies.append(repeated(name, root / f"case-{number}", num_others, seed, counted(name, num_others)))
    seconds = min(max(num_kills / 100, 1.0), 10.0)
    tallies.append(beside_readers(root / "readers", seconds, counted("collectors beside readers", 1)))
    if s3:
        from simulation.faults.remote import unreliable_server

        tallies.append(unreliable_server(root / "remote", num_others, seed, counted("server faults", num_others)))
    return tallies


def run_power_loss(root: Path, kinds: list[str], num_states: int, seed: int, bar: Progress) -> list[Tally]:
    """`num_states` states, divided among the kinds of objects."""
    share = -(-num_states // len(kinds))
    return [lose_power(root / kind, kind, share, seed, _counted(bar, f"power lost: {kind}", share)) for kind in kinds]


def faults_result(tallies: list[Tally]) -> tuple[dict[str, Any], Bars]:
    """What the line of JSON says, and its bars."""
    total = {what: sum(getattr(tally, what) for tally in tallies) for what in _WRONG}
    counts = {
        name: sum(tally.faults for tally in tallies if tally.kind.startswith(begin))
        for name, begin in (("kills", "killed: "), ("flips", "bits flipped"))
    }
    return counts | total, {what: at_most(count, 0) for what, count in total.items()}


def power_loss_result(tallies: list[Tally], kinds: list[str]) -> tuple[dict[str, Any], Bars]:
    total = {what: sum(getattr(tally, what) for tally in tallies) for what in _WRONG}
    states = {kind: tally.faults for kind, tally in zip(kinds, tallies, strict=True)}
    bars = {f"states_{what}": at_most(count, 0) for what, count in total.items()}
    bars |= {f"states_of_{kind}": at_least(num, STATES_OF_A_KIND_MIN) for kind, num in states.items()}
    if len(kinds) == len(KINDS):
        bars["states"] = at_least(sum(states.values()), STATES_MIN)
    return {"states": states, **total}, bars


def _counted(bar: Progress, label: str, total: int) -> Callable[[], None]:
    task = bar.add_task(label, total=total)

    def advance() -> None:
        bar.advance(task)
        bar.refresh()

    return advance


def main(arguments: list[str] | None = None) -> int:
    parser = parser_of("handoff_faults", __doc__)
    parser.add_argument("--kills", type=whole(), default=1000)
    parser.add_argument("--flips", type=whole(), default=1000)
    parser.add_argument("--power-loss", type=whole(), metavar="STATES", help="lose power instead, in this many states")
    parser.add_argument("--of", choices=sorted(KINDS), help="with --power-loss: this kind of object alone")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--directory", type=Path, help="where the stores lie meanwhile; a new temporary one otherwise")
    parser.add_argument("--no-s3", action="store_true", help="without a real S3 server that fails")
    given = parser.parse_args(arguments)
    started = time.monotonic()
    # Ctrl-C ends forks too; a file size limit that is hit must be an error, not a signal.
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    kinds = [given.of] if given.of else list(KINDS)
    try:
        # Refreshed by hand: forks are made from a process of one thread.
        with scratch("faults", given.directory) as root, Progress(console=progress, auto_refresh=False) as bar:
            if given.power_loss:
                tallies = run_power_loss(root, kinds, given.power_loss, given.seed, bar)
                body, bars = power_loss_result(tallies, kinds)
            else:
                how = {"num_kills": given.kills, "num_flips": given.flips, "seed": given.seed, "s3": not given.no_s3}
                tallies = run(root, **how, bar=bar)
                body, bars = faults_result(tallies)
    except TracingRefused as error:
        progress.print(f"[red]{error}")
        return 2
    columns = ("faults", "told", *_WRONG)
    rows = [[tally.kind, *(f"{getattr(tally, column):,}" for column in columns)] for tally in tallies]
    print_table("Faults", ["fault", *columns], rows)
    for tally in tallies:
        for note in tally.notes[:5]:
            progress.print(f"{tally.kind}: {note}")
    return finish({**body, "seconds": round(time.monotonic() - started, 1)}, bars, given.json)


if __name__ == "__main__":
    sys.stdout.flush()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.exit(main())
