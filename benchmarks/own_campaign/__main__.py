"""The way from a file of prompts to reviewed rows: our three commands beside Data Designer's quick start.

`python -m benchmarks.own_campaign` prints a table of medians, then one line of JSON. Conditions:

- Ours: `headrace init`, `headrace preview`, `headrace run` in a fresh clone of what is committed, whose set-up is done:
  real Dagster runs, with code server, daemon, webserver and run processes, all of whose CPU counts. The rows are
  reviewed, sealed, resumable row by row and traced. "echo" is the same without a server.
- Data Designer: its quick start as one script, in a place of its own (`make bench-setup`), as its packages want other
  versions than ours. Its rows are not reviewed; an interrupted run is resumed by whole batches, if it is asked to.
- Both ask one OpenAI-compatible server on this machine, whose answers follow from their prompts; its CPU is in neither.
- Commands, files and lines are what a user types: blank lines, comments and docstrings of the script do not count,
  every line of our file does.
- The first run of each is a warm-up: byte code is compiled then, except that of our clone, which each time is fresh.
- A busy machine takes more CPU for the same work, too: `import dagster`, measured beside each way, says how much.
"""

import argparse
import sys
from collections import defaultdict
from collections.abc import Callable

from benchmarks.measuring import (
    at_least,
    at_most,
    finish,
    in_turns,
    median,
    parser_of,
    print_table,
    require_peers,
    rounded,
    scratch,
    some_of,
    whole,
)
from benchmarks.own_campaign.peers import Way, data_designer, import_dagster, local_server, ours
from pipelines.setup import DATA_DESIGNER

_PEER = "data designer"
_MODULES = {_PEER: DATA_DESIGNER / "bin/python"}


def main(arguments: list[str] | None = None) -> int:
    parser = parser_of("own_campaign", __doc__)
    parser.add_argument("--prompts", type=whole(), default=40)
    parser.add_argument("--runs", type=whole(), default=3)
    parser.add_argument("--warm-ups", type=whole(0), default=1)
    parser.add_argument("--peers", type=some_of([_PEER]), default=[_PEER], help="default: all")
    options = parser.parse_args(arguments)
    require_peers({name: _MODULES[name] for name in options.peers})
    num = options.prompts
    ways: dict[str, list[Way]] = defaultdict(list)
    yardsticks: list[float] = []
    with local_server() as server:
        cases: list[tuple[str, Callable[..., Way]]] = [
            ("headrace, server", lambda place: ours(place, [server, "--model", "writer"], num)),
            ("headrace, echo", lambda place: ours(place, ["echo"], num)),
            *((peer, lambda place: data_designer(place, server, num)) for peer in options.peers),
        ]
        for run, (label, walk) in in_turns("own campaign", options.runs, cases, num_warm_ups=options.warm_ups):
            with scratch("own-campaign") as place:
                way = walk(place)
                yardsticks.append(import_dagster(place))
            ways[label] += [way] if run >= 0 else []
    return _report(ways, median(yardsticks), options)


def _report(ways: dict[str, list[Way]], yardstick: float, options: argparse.Namespace) -> int:
    def cpu(label: str) -> float:
        return rounded(median(way.cpu_seconds for way in ways[label]))

    rows = [
        [
            label,
            str(len(found[0].commands)),
            str(found[0].num_files),
            str(found[0].num_lines),
            f"{cpu(label):.1f}",
            f"{median(way.wall_seconds for way in found):.1f}",
            str(len(found[0].rows)),
            "yes" if found[0].is_reviewed else "no",
        ]
        for label, found in ways.items()
    ]
    columns = ["", "commands", "files", "lines", "CPU s", "wall s", "rows", "reviewed"]
    caption = f"`import dagster` took {yardstick:.2f} CPU s beside them"
    print_table(f"{options.prompts} prompts to rows", columns, rows, caption=caption)
    one = ways["headrace, server"][0]
    # Of one server, whose answers follow from their prompts.
    num_unlike = sum(ways[peer][0].rows != one.rows for peer in options.peers)
    body = {
        "benchmark": "own_campaign",
        "num_prompts": options.prompts,
        "import_dagster_cpu_seconds": rounded(yardstick),
        "ways": {
            label: {
                "commands": list(found[0].commands),
                "num_lines": found[0].num_lines,
                "cpu_seconds": [rounded(way.cpu_seconds) for way in found],
                "wall_seconds": [rounded(way.wall_seconds) for way in found],
                "num_rows": len(found[0].rows),
                "is_reviewed": found[0].is_reviewed,
            }
            for label, found in ways.items()
        },
    }
    bars = {
        "commands": at_most(len(one.commands), 3),
        "files": at_most(one.num_files, 1),
        "lines": at_most(one.num_lines, 15),
        "cpu_seconds_server": at_most(cpu("headrace, server"), 30),
        "cpu_seconds_echo": at_most(cpu("headrace, echo"), 30),
        "rows": at_least(min(len(way.rows) for found in ways.values() for way in found), options.prompts),
        "peers_with_other_rows": at_most(num_unlike, 0),
    }
    return finish(body, bars, options.json)


if __name__ == "__main__":
    sys.exit(main())
