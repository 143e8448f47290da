"""Weights by tensor, beside what moves whole files: `python -m benchmarks.weights [--only NAME,…]`.

A real SeaweedFS behind a proxy that holds every request back for 20 ms, on a link of 200 MB/s (network namespaces and
`tc tbf`: root, as in a container), for both sides alike; server and proxy are processes of their own, whose CPU is not
counted. The exit status is 1 if a bar of a part that ran is not met.
"""

import sys
from collections.abc import Callable
from pathlib import Path

from benchmarks.measuring import by_commas, parser_of, require_peers, some_of, whole
from benchmarks.parts import Outcome, run_parts
from benchmarks.weights import fetching, local_load, wrong_tensors
from benchmarks.weights.slow_store import Given

PARTS: dict[str, Callable[[Given, Path], Outcome]] = {
    "local_load": local_load.run,
    "first_fetch": fetching.first_fetch,
    "sibling_switch": fetching.sibling_switch,
    "fleet_bytes": fetching.fleet_bytes,
    "rank_bytes": fetching.rank_bytes,
    "first_layer_seconds": fetching.first_layer_seconds,
    "wrong_tensors": wrong_tensors.run,
}
PEERS = {"runai": "runai_model_streamer", "s3fs": "s3fs"}


def main(arguments: list[str] | None = None) -> int:
    parser = parser_of("weights", __doc__)
    parser.add_argument("--only", type=some_of(PARTS), default=list(PARTS), help=f"some of {', '.join(PARTS)}")
    parser.add_argument(
        "--peers", type=some_of(PEERS), default=list(PEERS), help=f"some of {', '.join(PEERS)}; '': none"
    )
    parser.add_argument("--gigabytes", type=float, default=2.15, help="of local_load and first_fetch (default 2.15)")
    parser.add_argument("--shards", type=whole(), default=16)
    parser.add_argument("--runs", type=whole(), default=5, help="how often each is measured (default 5)")
    parser.add_argument("--trials", type=whole(), default=500, help="of wrong_tensors (default 500)")
    parser.add_argument(
        "--models", type=by_commas(Path), default=[], help="of sibling_switch: directories of two versions"
    )
    parser.add_argument("--delay-ms", type=float, default=20.0, help="of each request (default 20)")
    parser.add_argument("--megabytes-per-second", type=float, default=200.0, help="of a node's link (default 200)")
    given = parser.parse_args(arguments)
    if {"local_load", "first_fetch"} & {*given.only}:
        require_peers({peer: PEERS[peer] for peer in given.peers})
    return run_parts("weights", PARTS, given.only, Given.of(given), given.json)


if __name__ == "__main__":
    sys.exit(main())
