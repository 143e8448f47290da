"""Peers that are programs: those that are installed, or that the command line names."""

import os
import shutil
import sys
from argparse import ArgumentParser
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Protocol, TypeVar

from benchmarks.measuring import some_of


class Peer(Protocol):
    """`program` is looked for on the path, beside Python, and in the directories given with --bin."""

    @property
    def name(self) -> str: ...
    @property
    def program(self) -> str: ...


P = TypeVar("P", bound=Peer)


def add_peer_options(parser: ArgumentParser, peers: Iterable[str]) -> None:
    """`--peers` and `--bin`, as `with_programs` takes them."""
    names = [*peers]
    parser.add_argument(
        "--peers",
        type=some_of([*names, "none"]),
        help=f"by commas, and required: {', '.join(names)}; or none; default: those installed",
    )
    parser.add_argument("--bin", type=Path, action="append", default=[], help="a directory of peers' programs")


def find_program(peer: Peer, directories: Sequence[Path]) -> str | None:
    places = [*map(str, directories), os.environ.get("PATH", ""), str(Path(sys.executable).parent), "/usr/sbin"]
    return shutil.which(peer.program, path=os.pathsep.join(places))


def with_programs(
    peers: Mapping[str, P], named: Iterable[str] | None, directories: Sequence[Path]
) -> list[tuple[P, str]] | None:
    """Each peer and the path of its program. Says which are not installed.

    Args:
        named: by --peers, and required, with `none` for no peer; None: those installed.

    Returns None: one that is required is not installed.
    """
    found: list[tuple[P, str]] = []
    for name in peers if named is None else [name for name in named if name != "none"]:
        program = find_program(peers[name], directories)
        if program is not None:
            found.append((peers[name], program))
            continue
        why = f"{name} is not installed (no program {peers[name].program!r}; give its directory with --bin)"
        print(f"error: {why}." if named else f"{why}: left out.", file=sys.stderr)
        if named:
            return None
    return found
