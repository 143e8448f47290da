"""Bulk beside live on one host, as `benchmarks.colocation` measures it, without its peers."""

from pathlib import Path

from benchmarks.colocation.beside import bars_of, measured, print_ways
from benchmarks.parts import Options, Outcome


def run(given: Options, directory: Path) -> Outcome:
    body = measured(directory, ["gated"])
    print_ways(body)
    return Outcome(body={name: ways["gated"] for name, ways in body.items()}, bars=bars_of(body, "live_"))
