"""What comes from a store behind a slow link: everything, what a sibling lacks, a rank's share, the first layer."""

import shutil
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.measuring import (
    MB,
    at_least,
    at_most,
    in_turns,
    median,
    num_bytes_below,
    print_table,
    progress,
    rounded,
)
from benchmarks.parts import Outcome
from benchmarks.weights.models import is_trained_by_the_demo, of_size, smollm2, write_model
from benchmarks.weights.slow_store import Given, Site, running_site

Costs = dict[str, list[dict[str, Any]]]


def first_fetch(given: Given, root: Path) -> Outcome:
    """Everything, to a node that has nothing: every byte compared, beside what obstore moves and throws away."""
    model = write_model(root / "model", of_size(given.gigabytes), num_shards=given.shards)
    num_bytes = num_bytes_below(model)
    with running_site(given, root) as site:
        site.seal(model)
        shutil.rmtree(model)
        tasks: dict[str, dict[str, Any]] = {"headrace": {}, "obstore": {"keeps": False}}
        tasks |= {peer: {} for peer in given.peers}
        costs = _in_turns("first_fetch", site, tasks, given.runs)
    _table(f"first fetch of {num_bytes / MB:.0f} MB in {given.shards} shards", costs, num_bytes, given)
    walls, cpus = _medians(costs, "wall"), _medians(costs, "cpu")
    most = max(one["anonymous"] for one in costs["headrace"])
    bars = {
        "first_fetch": at_least(rounded(walls["obstore"] / walls["headrace"]), 0.9),
        "first_fetch_memory_mib": at_most(rounded(most / 2**20), 256),
    }
    if "runai" in costs:
        bars["first_fetch_time_of_runai"] = at_most(rounded(walls["headrace"] / walls["runai"]), 0.6)
        bars["first_fetch_cpu_of_runai"] = at_most(rounded(cpus["headrace"] / cpus["runai"]), 0.6)
    figures = {name: {"wall": rounded(walls[name]), "cpu": rounded(cpus[name])} for name in costs}
    return Outcome(body={"num_bytes": num_bytes, **figures}, bars=bars)


def sibling_switch(given: Given, root: Path) -> Outcome:
    """The next version of the same base, to a node that has the last one; beside all of it by obstore, into files.

    Without `--models`, random numbers in the shapes of the demo's model, of which the demo's recipe trains half.
    """
    if given.models:
        stable, candidate = given.models[:2]
    else:
        stable = write_model(root / "stable", smollm2())
        candidate = write_model(root / "candidate", smollm2(), seed=8, base=stable, is_changed=is_trained_by_the_demo)
    num_bytes = num_bytes_below(candidate)
    costs: Costs = defaultdict(list)
    served: dict[str, list[int]] = defaultdict(list)
    with running_site(given, root) as site:
        site.seal(stable, candidate)
        for run, name in in_turns("sibling_switch", given.runs, ["headrace", "obstore"], num_warm_ups=1):
            cache = f"cache-{name}"
            if name == "headrace":
                site.run("headrace", digest=site.digests[0], cache=cache)
            before = site.served_bytes()
            body = site.run(name, digest=site.digests[1], cache=cache, keeps=True).body
            if run >= 0:
                costs[name].append(body)
                served[name].append(site.served_bytes() - before)
            shutil.rmtree(root / cache)
    _table(f"the next version of {num_bytes / MB:.0f} MB on a warm node", costs, num_bytes, given)
    walls = _medians(costs, "wall")
    share, time = median(served["headrace"]) / num_bytes, walls["headrace"] / walls["obstore"]
    return Outcome(
        body={"num_bytes": num_bytes, "wall": {name: rounded(wall) for name, wall in walls.items()}},
        bars={
            "sibling_bytes": at_most(rounded(share), 0.42),
            "sibling_time": at_most(rounded(time), 0.5),
        },
    )


def fleet_bytes(given: Given, root: Path) -> Outcome:
    """Four workers on each of three nodes begin at once: how often the store serves each byte."""
    num_nodes, num_workers = 3, 4
    model = write_model(root / "model", smollm2(), num_shards=4)
    num_bytes = num_bytes_below(model)
    ratios, walls = [], []
    with running_site(given, root, num_nodes=num_nodes) as site:
        site.seal(model)
        for run in range(given.runs):
            progress.print(f"fleet_bytes: run {run + 1} of {given.runs}")
            children = [
                site.start(
                    "headrace",
                    node=node,
                    cache=f"{run}-{node.address}",
                    digest=site.digests[0],
                    waits=True,
                    stays=True,
                    offers=True,
                )
                for node in site.network.nodes
                for _ in range(num_workers)
            ]
            for child in children:
                child.wait_for("ready")
            before = site.served_bytes()
            for child in children:
                child.say("go")
            for child in children:
                child.wait_for("done")
            ratios.append((site.served_bytes() - before) / num_bytes)
            for child in children:
                child.say("end")
            walls.append(max(child.result().body["wall"] for child in children))
            for node in site.network.nodes:
                shutil.rmtree(root / f"{run}-{node.address}")
    print_table(
        f"{num_nodes} nodes × {num_workers} workers, {num_bytes / MB:.0f} MB; median of {given.runs}",
        ["", "bytes from the store", "wall s of the last"],
        [
            ["headrace", f"{median(ratios):.3f}×", f"{median(walls):.2f}"],
            ["each worker for itself", f"{num_nodes * num_workers}×", "not run"],
        ],
    )
    return Outcome(
        body={"num_bytes": num_bytes, "ratios": [rounded(ratio, 4) for ratio in ratios]},
        # The index, manifests and offers come on top of the files' bytes.
        bars={"fleet_bytes": at_most(rounded(max(ratios), 4), 1.01)},
    )


def rank_bytes(given: Given, root: Path) -> Outcome:
    """One of four ranks: the share of the bytes that comes to it, slices along the first dimension."""
    num_ranks = 4
    model = write_model(root / "model", of_size(min(given.gigabytes, 0.5)), num_shards=4)
    num_bytes = num_bytes_below(model)
    with running_site(given, root) as site:
        site.seal(model)
        before, shares, num_tensor_bytes = site.served_bytes(), [], 0
        for rank in range(num_ranks):
            body = site.run("rank", digest=site.digests[0], cache=f"rank-{rank}", rank=rank, num_ranks=num_ranks).body
            after = site.served_bytes()
            shares.append((after - before) / num_bytes)
            before = after
            num_tensor_bytes += body["num_tensor_bytes"]
    rows = [[f"rank {rank}", f"{share:.4f}"] for rank, share in enumerate(shares)]
    print_table(f"one of {num_ranks} ranks of {num_bytes / MB:.0f} MB", ["", "share of the bytes"], rows)
    return Outcome(
        body={"num_bytes": num_bytes, "num_tensor_bytes_of_all": num_tensor_bytes},
        bars={"rank_bytes": at_most(rounded(max(shares), 4), 0.27)},
    )


def first_layer_seconds(given: Given, root: Path) -> Outcome:
    """At 50 MB/s: until the embedding and the first layer can be used, beside all of it."""
    model = write_model(root / "model", of_size(min(given.gigabytes, 0.5)), num_shards=4)
    num_bytes, ratios, rows = num_bytes_below(model), [], []
    with running_site(given, root, megabytes_per_second=50) as site:
        site.seal(model)
        for run in range(given.runs):
            progress.print(f"first_layer_seconds: run {run + 1} of {given.runs}")
            body = site.run("first_layer", digest=site.digests[0], cache=f"cache-{run}").body
            ratios.append(body["first_layer_seconds"] / body["wall"])
            rows.append([f"run {run + 1}", f"{body['first_layer_seconds']:.2f}", f"{body['wall']:.2f}"])
            shutil.rmtree(root / f"cache-{run}")
    print_table(f"{num_bytes / MB:.0f} MB at 50 MB/s", ["", "first layer s", "all s"], rows)
    return Outcome(body={"num_bytes": num_bytes}, bars={"first_layer_seconds": at_most(rounded(median(ratios)), 0.2)})


def _in_turns(what: str, site: Site, tasks: dict[str, dict[str, Any]], runs: int) -> Costs:
    costs: Costs = defaultdict(list)
    for run, name in in_turns(what, runs, list(tasks), num_warm_ups=1):
        body = site.run(name, digest=site.digests[-1], **tasks[name]).body
        shutil.rmtree(site.root / "cache", ignore_errors=True)
        if run >= 0:
            costs[name].append(body)
    return costs


def _medians(costs: Costs, what: str) -> dict[str, float]:
    return {name: median(one[what] for one in found) for name, found in costs.items()}


def _table(title: str, costs: Costs, num_bytes: int, given: Given) -> None:
    link = f"{given.megabytes_per_second:.0f} MB/s and {given.delay_ms:.0f} ms a request"
    print_table(
        f"{title}; {link}, median of {given.runs}",
        ["", "wall s", "MB/s", "CPU s", "memory beside files MiB"],
        [_row(name, found, num_bytes) for name, found in costs.items()],
    )


def _row(name: str, found: Sequence[dict[str, Any]], num_bytes: int) -> list[str]:
    wall = median(one["wall"] for one in found)
    cpu, most = median(one["cpu"] for one in found), max(one["anonymous"] for one in found)
    return [name, f"{wall:.2f}", f"{num_bytes / MB / wall:.0f}", f"{cpu:.2f}", f"{most / 2**20:.0f}"]
