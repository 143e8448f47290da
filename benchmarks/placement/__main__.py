"""How much of a cluster's GPU a policy gives out: `python -m benchmarks.placement --nodes FILE --pods FILE…`.

The openb protocol (Weng et al. 2023, Beware of Fragmentation, USENIX ATC): the tasks of a list, shuffled by seed and
drawn again until 130% of the cluster's GPU has arrived, are placed one by one and never moved; what does not fit is
lost. Reported: GPU thousandths given out as per cent of the cluster's, when 95, 100 and 130% had arrived (as in the
published table, the mean while it was that per cent, rounded), mean of the seeds. With `--buffer N` up to N tasks wait,
and the best pair of task and node goes first; at 95 and 100% those that wait count as not placed.

A policy knows the list's mix of tasks beforehand, as FGD does too; its seed, for ties and for what it draws, is the
shuffle's. Prints a table, then one line of JSON: `lists` by name, `mean130` over them, and `decisions_per_s` of CPU.

`--published FILE`: the table that FGD's authors published. Then ours must give out no less than their FGD of each list,
at 95% arrived and at the end.
"""

import argparse
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.progress import Progress

from benchmarks.measuring import Bars, at_least, at_most, finish, parser_of, print_table, progress, whole
from benchmarks.placement.openb import list_name, read_nodes, read_published, read_tasks
from benchmarks.placement.peers import POLICIES
from benchmarks.placement.replay import LOADS, Replayed, replay
from headrace.errors import HeadraceError
from headrace.placement.demand import Demand
from headrace.placement.inventory import Inventory

TIES = ("name", "random")
# As the published table names it; what it gives out of the default list at the end there.
_FGD, _FGD_DEFAULT = "06-FGD", 95.39


def main(arguments: Sequence[str] | None = None) -> int:
    options = _options(arguments)
    try:
        inventory = read_nodes(options.nodes)
        lists = {list_name(path): read_tasks(path) for path in options.pods}
        published = read_published(options.published, _FGD) if options.published else {}
    except HeadraceError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    ties = TIES if options.ties == "both" else (options.ties,)
    runs = _replayed(inventory, lists, ties, options)
    body = _body(options.policy, runs, ties)
    print_table(
        f"{options.policy}: GPU allocated, % of {inventory.num_gpus} GPUs on {len(inventory.nodes)} nodes",
        ["list", "ties", *(f"at {load:.0%}" for load in LOADS), "sd at 130%"],
        [
            [name, tie, *(f"{figures[key]:.2f}" for key in ("95", "100", "130", "sd130"))]
            for name, by_tie in body["lists"].items()
            for tie, figures in by_tie.items()
        ],
        caption=f"Mean of {options.seeds} seeds; {body['decisions_per_s']:.0f} decisions a CPU second.",
    )
    return finish(body, bars_of(body, published), options.json)


def bars_of(body: dict[str, Any], published: Mapping[str, Mapping[str, float]]) -> Bars:
    """Nobody gives out more than there is; ours gives out more of the whole cluster's default list than FGD does, and
    of each list that was published no less."""
    most = max(figures["130"] for by_tie in body["lists"].values() for figures in by_tie.values())
    bars = {"given_out": at_most(most, 100.0)}
    if body["policy"] == "headrace":
        for tie, figures in body["lists"].get("default", {}).items():
            bars[f"default_130_{tie}"] = at_least(figures["130"], _FGD_DEFAULT)
        for name, by_tie in body["lists"].items():
            for tie, figures in by_tie.items():
                bars |= {
                    f"{name}_{load}_{tie}_fgd": at_least(figures[load], round(theirs, 2))
                    for load, theirs in published.get(name, {}).items()
                }
    return bars


def _replayed(
    inventory: Inventory, lists: dict[str, list[Demand]], ties: Sequence[str], options: argparse.Namespace
) -> dict[tuple[str, str], list[Replayed]]:
    # A short run first: what is compiled, or loaded, on first use is no part of a decision.
    first = next(iter(lists.values()))
    replay(inventory, first, name=options.policy, ties="name", seed=0, load=0.01)
    runs: dict[tuple[str, str], list[Replayed]] = {}
    with Progress(console=progress, transient=True) as bar:
        task = bar.add_task(options.policy, total=len(lists) * len(ties) * options.seeds)
        for name, tasks in lists.items():
            for tie in ties:
                for seed in range(options.seeds):
                    bar.update(task, description=f"{options.policy} on {name}, ties by {tie}, seed {seed}")
                    run = replay(inventory, tasks, name=options.policy, ties=tie, seed=seed, num_places=options.buffer)
                    runs.setdefault((name, tie), []).append(run)
                    bar.advance(task)
    return runs


def _body(policy: str, runs: dict[tuple[str, str], list[Replayed]], ties: Sequence[str]) -> dict[str, Any]:
    lists: dict[str, dict[str, dict[str, float]]] = {}
    for (name, tie), replays in runs.items():
        by_load = zip(*(run.allocated for run in replays), strict=True)
        figures = {f"{load:.0%}".removesuffix("%"): values for load, values in zip(LOADS, by_load, strict=True)}
        lists.setdefault(name, {})[tie] = {
            **{load: round(statistics.fmean(values), 2) for load, values in figures.items()},
            "sd130": round(statistics.stdev(figures["130"]) if len(replays) > 1 else 0.0, 2),
        }
    every = [run for replays in runs.values() for run in replays]
    return {
        "policy": policy,
        "lists": lists,
        "mean130": {tie: round(statistics.fmean(by_tie[tie]["130"] for by_tie in lists.values()), 2) for tie in ties},
        "decisions_per_s": round(sum(run.num_decisions for run in every) / sum(run.cpu_seconds for run in every)),
    }


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = parser_of("placement", __doc__)
    parser.add_argument(
        "--nodes", type=Path, required=True, help="CSV of nodes: sn, cpu_milli, memory_mib, gpu (a count), model"
    )
    parser.add_argument(
        "--pods",
        type=Path,
        required=True,
        nargs="+",
        help="CSVs of tasks: cpu_milli, memory_mib, num_gpu, gpu_milli, gpu_spec (models by |, optional)",
    )
    parser.add_argument("--published", type=Path, help="CSV of published figures: workload, sc_policy, seed, 95, 130")
    parser.add_argument("--seeds", type=whole(), default=10, help="shuffles 0 to N-1 of each list (default 10)")
    parser.add_argument("--policy", choices=POLICIES, default="headrace", help="default headrace")
    parser.add_argument("--ties", choices=(*TIES, "both"), default="both", help="between equal nodes (default both)")
    parser.add_argument("--buffer", type=whole(0), default=0, help="tasks that may wait (default 0: none)")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
