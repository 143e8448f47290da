"""Text, pictures and speech of one campaign: `python -m benchmarks.modalities [--exact] [--overhead] [--paired] …`.

Each part is a module of its own, which says what it measures; without a part, all run. The models are tiny, untrained
and made on the spot, where no other directory is given: what they make is nothing to look at, and rows depend on the
last bits of their sums as those of any model do. The exit status is 1 if a bar of a part that ran is not met.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.measuring import parser_of, require_peers, some_of, whole
from benchmarks.modalities import exact, overhead, paired, storage
from benchmarks.modalities.parts import Given
from benchmarks.parts import Outcome, run_parts

# In the order in which they run; each has a scratch directory of its own.
PARTS: dict[str, Callable[[Given, Path], Outcome]] = {
    "exact": exact.run,
    "overhead": overhead.run,
    "paired": paired.run,
    "storage": storage.run,
}
PEERS: dict[str, str | Path] = {"lance": "lance"}


def main(arguments: list[str] | None = None) -> int:
    parser = parser_of("modalities", __doc__)
    chosen: dict[str, Any] = {"action": "append_const", "dest": "only"}
    parser.add_argument("--exact", const="exact", **chosen, help="same bytes in any batch, and after kill -9")
    parser.add_argument("--overhead", const="overhead", **chosen, help="CPU beside bare loops")
    parser.add_argument("--paired", const="paired", **chosen, help="two painters on the same texts")
    parser.add_argument("--storage", const="storage", **chosen, help="many pictures beside loose files")
    parser.add_argument("--writer", type=Path, help="a language model's directory; default: a tiny one")
    parser.add_argument("--painter", type=Path, help="a diffusers pipeline's directory; default: a tiny one")
    parser.add_argument("--size", type=whole(1), default=32, help="pixels of what --painter paints, a side")
    parser.add_argument("--kills", type=whole(1), default=100)
    parser.add_argument("--items", type=whole(1), default=10_000, help="of --storage")
    parser.add_argument("--runs", type=whole(1), default=5, help="of --overhead and --storage")
    parser.add_argument("--peers", type=some_of(PEERS), default=[], help=f"of --storage: {', '.join(PEERS)}")
    given = parser.parse_args(arguments)
    require_peers({peer: PEERS[peer] for peer in given.peers})
    return run_parts("modalities", PARTS, given.only or PARTS, Given.of(given), given.json)


if __name__ == "__main__":
    sys.exit(main())
