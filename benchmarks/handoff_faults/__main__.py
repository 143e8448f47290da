"""Every fault that a handoff is to survive, for real: `python -m benchmarks.handoff_faults --kills 1000 --flips 1000`.

`--power-loss 2000 [--of handoff|journal|claims|batches|weights]` instead loses power: states of the disk that a traced
piece of work may leave, by kind of object (`simulation.power_loss.kinds`). Its JSON has `states` by kind and `bars`.

A writer or a collector is killed at each system call that touches the store; bits are flipped, files broken; disks and
limits run full; writers meet on one version; collectors run beside readers; readers are killed; a server answers 503.
After each of them a checker that knows what was sealed opens everything. Prints a table, then one line of JSON:
`kills`, `flips`, `torn`, `silent`, `lost`, `seconds`. Exit status 1: one of the three is not zero. 2: this machine does
not permit to trace system calls.
"""

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from headrace.handoff.versions import HandoffStore
from headrace.store.local import LocalStore
from simulation.faults.cases import (
    ASSET,
    PARTITION,
    Later,
    Tally,
    broken_files,
    check_everything,
    collect_all,
    damages,
    fresh_copy,
    publish,
    read_damaged,
)
from simulation.faults.processes import beside_readers, full_disk, full_file_system, killed_readers, two_writers
from simulation.power_loss.kinds import KINDS, lose_power
from simulation.system_calls.tracing import Traced, TracingRefused, run_traced

PURPOSE = "Every fault that a handoff is to survive, for real; then a checker opens everything."
Say = Callable[[bytes], Any]
# What was sealed in the template before anything is killed; 90 and 91 are what the killed ones and the checker write.
SEALED = (1, 2, 3)
KILLED_WRITES, CHECKER_WRITES = 90, 91
# Fewer different states of one kind of object, or of all, say too little.
STATES_OF_A_KIND_MIN, STATES_MIN = 300, 2000


def publish_work(directory: Path, say: Say) -> None:
    say(str(publish(LocalStore(directory), KILLED_WRITES).version).encode())


def publish_same_work(directory: Path, say: Say) -> None:
    """What is sealed already is found, not sealed again."""
    version = publish(LocalStore(directory), SEALED[-1]).version
    assert version == len(SEALED)


def first_publish_work(directory: Path, say: Say) -> None:
    say(str(publish(LocalStore(directory), KILLED_WRITES).version).encode())


def collect_work(directory: Path, say: Say) -> None:
    collect_all(LocalStore(directory), Later(0.0))


WORKS: dict[str, Callable[[Path, Say], None]] = {
    "publish": publish_work,
    "publish, first of all": first_publish_work,
    "publish the same": publish_same_work,
    "collect garbage": collect_work,
}


def kill_everywhere(root: Path, num_kills: int, seed: int, advance: Callable[[], None]) -> list[Tally]:
    """Kills evenly spread over all works and all their points; more kills than points begin again.

    Raises:
        TracingRefused
    """
    template, target = root / "template", root / "killed"
    sealed_template(template)
    (root / "empty").mkdir()
    templates = {name: root / "empty" if name == "publish, first of all" else template for name in WORKS}
    points = []
    for name, work in WORKS.items():
        fresh_copy(templates[name], target)
        whole = run_traced(partial(work, target), target)
        assert whole.exit_status == 0, f"{name} fails without being killed"
        points += [(name, point) for point in range(len(whole.calls))]
    random.Random(seed).shuffle(points)
    tallies = {name: Tally(f"killed: {name}") for name in WORKS}
    for index in range(num_kills):
        name, point = points[index % len(points)]
        tally = tallies[name]
        fresh_copy(templates[name], target)
        traced = run_traced(partial(WORKS[name], target), target, point)
        while not traced.is_killed:
            # A library took another way this time, and made fewer calls.
            fresh_copy(templates[name], target)
            point = max(min(point, len(traced.calls)) - 1, 0)
            traced = run_traced(partial(WORKS[name], target), target, point)
        tally.faults += 1
        known = {} if name == "publish, first of all" else {number: number for number in SEALED}
        _check_killed(target, name, known, traced, tally)
        advance()
    for tally in tallies.values():
        tally.notes.append(f"points at system calls: {sum(name == tally.kind[8:] for name, _ in points)}")
    return list(tallies.values())


def _check_killed(target: Path, name: str, known: dict[int, int], traced: Traced, tally: Tally) -> None:
    store = LocalStore(target)
    if name == "collect garbage":
        known = {SEALED[-1]: SEALED[-1]}
        # The next collection ends what the killed one began: nothing of older versions is left.
        collect_all(store, Later(7200.0))
        handoffs = HandoffStore(store, leased=False)
        if handoffs.versions(ASSET, PARTITION) != list(known):
            tally.wrong("lost", f"{handoffs.versions(ASSET, PARTITION)} are left after a second collection")
        if len(store.children(f"handoff/{ASSET}/{PARTITION}/parts")) != 1:
            tally.wrong("lost", "parts are left after a second collection")
    if traced.said:
        known[int(traced.said)] = KILLED_WRITES
    check_everything(store, tally, known, CHECKER_WRITES)


def sealed_template(directory: Path) -> None:
    for number in SEALED:
        publish(LocalStore(directory), number, leased=False)


def flip_bits(root: Path, num_flips: int, seed: int, advance: Callable[[], None]) -> Tally:
    directory, tally, chance = root / "flipped", Tally("bits flipped, read eagerly"), random.Random(seed)
    sealed_template(directory)
    store = LocalStore(directory)
    for (what, flip), _ in zip(damages(directory, chance), range(num_flips), strict=False):
        flip()
        # Which version the file belongs to does not matter: all are read, the others must be right.
        for version in SEALED:
            read_damaged(store, tally, version, what)
        tally.faults -= len(SEALED) - 1
        advance()
    return tally


def break_files(root: Path, num_files: int, seed: int, advance: Callable[[], None]) -> Tally:
    directory, tally, chance = root / "broken", Tally("files cut, emptied, missing, foreign"), random.Random(seed)
    sealed_template(directory)
    store = LocalStore(directory)
    for (what, version), _ in zip(broken_files(directory, chance), range(num_files), strict=False):
        read_damaged(store, tally, version, what)
        advance()
    return tally


def run(root: Path, *, num_kills: int, num_flips: int, seed: int, s3: bool, progress: Progress) -> list[Tally]:
    """All kinds, each in a directory of its own below `root`."""
    num_others = max(num_kills // 20, 2)
    counted = partial(_counted, progress)
    tallies = kill_everywhere(root, num_kills, seed, counted("kills", num_kills))
    tallies.append(flip_bits(root, num_flips, seed, counted("flips", num_flips)))
    tallies.append(break_files(root, max(num_flips // 4, 12), seed, counted("broken files", max(num_flips // 4, 12))))
    for label, case in (
        ("file size limit", full_disk),
        ("full file system", full_file_system),
        ("two writers", two_writers),
        ("killed readers", killed_readers),
    ):
        tallies.append(case(root / label.replace(" ", "-"), num_others, seed, counted(label, num_others)))
    seconds = min(max(num_kills / 100, 1.0), 10.0)
    tallies.append(beside_readers(root / "readers", seconds, counted("collectors beside readers", 1)))
    if s3:
        from simulation.faults.remote import unreliable_server

        tallies.append(unreliable_server(root / "remote", num_others, seed, counted("server faults", num_others)))
    return tallies


def run_power_loss(root: Path, kinds: list[str], num_states: int, seed: int, progress: Progress) -> list[Tally]:
    """`num_states` states, divided among the kinds of objects."""
    share = -(-num_states // len(kinds))
    return [
        lose_power(root / kind, kind, share, seed, _counted(progress, f"power lost: {kind}", share)) for kind in kinds
    ]


def power_loss_body(tallies: list[Tally], kinds: list[str]) -> dict[str, Any]:
    """What the line of JSON says, with each bar: what was found, what is asked, and whether that is met."""
    states = {kind: tally.faults for kind, tally in zip(kinds, tallies, strict=True)}
    total = {what: sum(getattr(tally, what) for tally in tallies) for what in ("torn", "silent", "lost")}
    found = [(f"states_{what}", count, 0, count == 0) for what, count in total.items()]
    found += [
        (f"states_of_{kind}", num, STATES_OF_A_KIND_MIN, num >= STATES_OF_A_KIND_MIN) for kind, num in states.items()
    ]
    if len(kinds) == len(KINDS):
        found.append(("states", sum(states.values()), STATES_MIN, sum(states.values()) >= STATES_MIN))
    return {
        "states": states,
        **total,
        "bars": {name: {"value": value, "bar": bar, "met": met} for name, value, bar, met in found},
    }


def _counted(progress: Progress, label: str, total: int) -> Callable[[], None]:
    task = progress.add_task(label, total=total)

    def advance() -> None:
        progress.advance(task)
        progress.refresh()

    return advance


def shown(tallies: list[Tally]) -> Table:
    table = Table(title="Faults")
    for column in ("fault", "faults", "told", "torn", "silent", "lost"):
        table.add_column(column, justify="left" if column == "fault" else "right")
    for tally in tallies:
        counts = (tally.faults, tally.told, tally.torn, tally.silent, tally.lost)
        table.add_row(tally.kind, *(f"{count:,}" for count in counts))
    return table


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.handoff_faults", description=PURPOSE)
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--flips", type=int, default=1000)
    parser.add_argument("--power-loss", type=int, metavar="STATES", help="lose power instead, in this many states")
    parser.add_argument("--of", choices=sorted(KINDS), help="with --power-loss: this kind of object alone")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--directory", type=Path, help="where the stores lie meanwhile; a new temporary one otherwise")
    parser.add_argument("--no-s3", action="store_true", help="without a real S3 server that fails")
    given = parser.parse_args(arguments)
    console = Console(stderr=True)
    started = time.monotonic()
    # Ctrl-C ends forks too; a file size limit that is hit must be an error, not a signal.
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        with (
            tempfile.TemporaryDirectory(prefix="headrace-faults-", dir=given.directory) as root,
            # Refreshed by hand: forks are made from a process of one thread.
            Progress(console=console, auto_refresh=False) as progress,
        ):
            kinds = [given.of] if given.of else list(KINDS)
            tallies = (
                run_power_loss(Path(root), kinds, given.power_loss, given.seed, progress)
                if given.power_loss
                else run(
                    Path(root),
                    num_kills=given.kills,
                    num_flips=given.flips,
                    seed=given.seed,
                    s3=not given.no_s3,
                    progress=progress,
                )
            )
    except TracingRefused as error:
        console.print(f"[red]{error}")
        return 2
    Console().print(shown(tallies))
    for tally in tallies:
        for note in tally.notes[:5]:
            console.print(f"{tally.kind}: {note}", highlight=False)
    seconds = round(time.monotonic() - started, 1)
    if given.power_loss:
        body = power_loss_body(tallies, kinds)
        print(json.dumps({**body, "seconds": seconds}))
        return 1 if body["torn"] or body["silent"] or body["lost"] else 0
    total = {what: sum(getattr(tally, what) for tally in tallies) for what in ("torn", "silent", "lost")}
    kills = sum(tally.faults for tally in tallies if tally.kind.startswith("killed: "))
    flips = sum(tally.faults for tally in tallies if tally.kind.startswith("bits flipped"))
    print(json.dumps({"kills": kills, "flips": flips, **total, "seconds": seconds}))
    return 1 if any(total.values()) else 0


if __name__ == "__main__":
    sys.stdout.flush()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.exit(main())
