"""10,000 pictures of 2 kB: packed by `publish_media` beside loose files named by UUID, and Lance, in turns.

CPU seconds of writing, medians. Ours fsyncs what it writes; the bar is against loose files that nobody fsyncs, as Data
Designer leaves them, and files that are fsynced stand beside.
Then any item of ours must come in one ranged read: the kernel counts reads while 100 random ones are fetched.
"""

import os
import random
import shutil
import uuid
from collections.abc import Mapping
from pathlib import Path

from benchmarks.measuring import at_most, in_turns, measured, median, print_table, rounded
from benchmarks.media.peers import Headrace, Lance, LooseFiles, Peer
from benchmarks.modalities.parts import Given
from benchmarks.parts import Outcome

_ITEM_BYTES = 2000
_NUM_READ = 100


def run(given: Given, directory: Path) -> Outcome:
    draw = random.Random(0)
    # As Data Designer names them.
    names = [str(uuid.UUID(int=draw.getrandbits(128), version=4)) for _ in range(given.items)]
    bodies = {name: draw.randbytes(_ITEM_BYTES) for name in names}
    peers: dict[str, Peer] = {
        "loose files": LooseFiles(),
        "loose files, fsynced": LooseFiles(),
        "publish_media": Headrace(),
    }
    if "lance" in given.peers:
        peers["Lance"] = Lance()
    costs: dict[str, list[float]] = {name: [] for name in peers}
    for number, name in in_turns("storage", given.runs, list(peers), num_warm_ups=1):
        place = directory / "items"
        place.mkdir()
        with measured() as cost:
            peers[name].write(bodies, place)
            if name == "loose files, fsynced":
                _fsync_all(place)
        costs[name] += [cost.cpu_seconds] if number >= 0 else []
        if name == "publish_media" and number == given.runs - 1:
            place.rename(directory / "kept")
        else:
            shutil.rmtree(place)
    medians = {name: median(found) for name, found in costs.items()}
    reads = _reads_an_item(directory / "kept", bodies, draw)
    print_table(
        f"Writing {given.items:,} items of {_ITEM_BYTES / 1000:g} kB",
        ["", "CPU s"],
        [[name, f"{one:.3f}"] for name, one in medians.items()],
        caption=f"{reads:g} ranged reads an item",
    )
    return Outcome(
        body={"write_cpu_seconds": {name: rounded(one) for name, one in medians.items()}, "reads_an_item": reads},
        bars={
            "write_cpu_over_loose_files": at_most(rounded(medians["publish_media"] / medians["loose files"]), 0.5),
            "ranged_reads_an_item": at_most(reads, 1),
        },
    )


def _fsync_all(directory: Path) -> None:
    for path in [*directory.iterdir(), directory]:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _reads_an_item(place: Path, bodies: Mapping[str, bytes], draw: random.Random) -> float:
    """System calls that read, for each of some random items, once the index is open."""
    reader = Headrace().reader(place, list(bodies))
    wanted = draw.sample(list(bodies), min(_NUM_READ, len(bodies)))
    reader.one(wanted[0])
    before = _num_reads()
    own = _num_reads() - before
    started = _num_reads()
    found = [reader.one(item_id) for item_id in wanted]
    num_reads = _num_reads() - started - own
    assert found == [bodies[item_id] for item_id in wanted], "other bytes than were written"
    return num_reads / len(wanted)


def _num_reads() -> int:
    lines = Path("/proc/self/io").read_text().splitlines()
    return int(dict(line.split(": ") for line in lines)["syscr"])
