"""Text, pictures and speech of one campaign: `python -m benchmarks.modalities [--exact] [--overhead] [--paired] …`.

Each part is a module of its own, which says what it measures; without a part, all run. The models are tiny, untrained
and made on the spot, where no other directory is given: what they make is nothing to look at, and rows depend on the
last bits of their sums as those of any model do. The exit status is 1 if a bar of a part that ran is not met.
"""

import sys
from collections.abc import Callable
from pathlib import Path

from benchmarks.measuring import parser_of, require_peers, some_of, whole
from benchmarks.modalities import exact, gates_pictures, gates_speech, overhead, overlap, paired, storage
from benchmarks.modalities.parts import Given
from benchmarks.parts import Outcome, run_parts
from pipelines.setup import DATA_DESIGNER, RAY_AND_DAFT

# In the order in which they run; each has a scratch directory of its own.
PARTS: dict[str, Callable[[Given, Path], Outcome]] = {
    "exact": exact.run,
    "overhead": overhead.run,
    "paired": paired.run,
    "storage": storage.run,
    "overlap": overlap.run,
    "gates_pictures": gates_pictures.run,
    "gates_speech": gates_speech.run,
}
GATES = ("gates_pictures", "gates_speech")
PEERS: dict[str, str | Path] = {
    "lance": "lance",
    exact.DESIGNER: DATA_DESIGNER / "bin/python",
    "ray": RAY_AND_DAFT / "bin/ray",
    "daft": RAY_AND_DAFT / "bin/python",
}


def main(arguments: list[str] | None = None) -> int:
    parser = parser_of("modalities", __doc__)
    for name, part in PARTS.items():
        summary = (sys.modules[part.__module__].__doc__ or "").splitlines()[0]
        option = f"--{name.replace('_', '-')}"
        parser.add_argument(option, action="append_const", const=name, dest="only", help=summary)
    parser.add_argument(
        "--gates", action="store_true", help="what the review catches of sabotage, and takes of true ones"
    )
    parser.add_argument("--each", type=whole(20), default=200, help="of --gates, of each kind")
    parser.add_argument("--writer", type=Path, help="a language model's directory; default: a tiny one")
    parser.add_argument("--prompts", type=Path, help="of --overhead: what the writer is asked, a line each")
    parser.add_argument("--painter", type=Path, help="a diffusers pipeline's directory; default: a tiny one")
    parser.add_argument("--size", type=whole(1), default=32, help="pixels of what --painter paints, a side")
    parser.add_argument("--kills", type=whole(1), default=100)
    parser.add_argument("--items", type=whole(1), default=10_000, help="of --storage")
    parser.add_argument("--runs", type=whole(1), default=5, help="of --overhead and --storage")
    parser.add_argument(
        "--peers", type=some_of(PEERS), default=[], help=f"of --exact, --storage and --overlap: {', '.join(PEERS)}"
    )
    parser.add_argument("--partitions", type=whole(1), default=10, help="of --overlap")
    parser.add_argument("--rows", type=whole(1), default=80, help="of --overlap, in a partition")
    parser.add_argument("--sharers", type=whole(1), default=3, help="of --overlap: runs that share a GPU")
    given = parser.parse_args(arguments)
    require_peers({peer: PEERS[peer] for peer in given.peers})
    only = [*(given.only or ()), *(GATES if given.gates else ())]
    return run_parts("modalities", PARTS, only or PARTS, Given.of(given), given.json)


if __name__ == "__main__":
    sys.exit(main())
