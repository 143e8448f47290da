"""Data prep beside its peers, on the same files, in turns: `python -m benchmarks.prep [--only near,...] [--runs 5]`.

Each part is a module of its own, which says what it measures. A part's figures and bars come under its own names; the
exit status is 1 if a bar of a part that ran is not met.
"""

import sys
from collections.abc import Callable
from pathlib import Path

from benchmarks.measuring import parser_of, require_peers, some_of, whole
from benchmarks.parts import Outcome, run_parts
from benchmarks.prep import languages, near, quality, rows, sets, whole_corpus
from benchmarks.prep.parts import Given

# What `--only` chooses from, in the order in which they run; each has a scratch directory of its own.
PARTS: dict[str, Callable[[Given, Path], Outcome]] = {
    "near": near.run,
    "languages": languages.run,
    "quality": quality.run,
    "exact": rows.run_exact,
    "read": rows.run_read,
    "whole": whole_corpus.run,
    "sets": sets.run,
}
# Peers of all parts, and what has to be installed for each.
PEERS: dict[str, str | Path] = {
    **near.PEERS,
    **languages.PEERS,
    **quality.PEERS,
}


def main(arguments: list[str] | None = None) -> int:
    parser = parser_of("prep", __doc__)
    parser.add_argument("--only", type=some_of(PARTS), default=list(PARTS), help="parts by commas")
    parser.add_argument("--megabytes", type=whole(1), default=200)
    parser.add_argument("--slice-megabytes", type=whole(1), default=20, help="for slow peers and for the truth")
    parser.add_argument("--runs", type=whole(1), default=5)
    parser.add_argument("--peers", type=some_of(PEERS), default=list(PEERS))
    given = parser.parse_args(arguments)
    require_peers({peer: PEERS[peer] for peer in given.peers})
    return run_parts("prep", PARTS, given.only, Given.of(given), given.json)


if __name__ == "__main__":
    sys.exit(main())
