"""Demands, places and times as people read them."""

import pytest

from headrace.placement.demand import Demand
from headrace.placement.placements import HostShare, Placement
from headrace_dagster.queue_views.queue_words import (
    clock_text,
    demand_in_short,
    demand_text,
    devices_text,
    partition_in,
    placement_text,
    run_name,
    since_text,
    until_text,
)
from tests.headrace_dagster.queue_builders import MINUTE, NOW, TRAINING, make_run, shares

HOUR = 60 * MINUTE

DEMANDS = {
    "nothing": (Demand(), "no GPU", "no GPU"),
    "CPUs alone": (Demand(cpu_milli=500), "no GPU; 0.5 CPUs", "0.5 CPU"),
    "one GPU": (Demand(num_gpus=1, cpu_milli=1000), "1 whole GPU; 1 CPU", "1 GPU"),
    "a gang with everything": (
        Demand(
            num_gpus=2,
            gpu_models=frozenset({"H100", "A100"}),
            gpu_memory_mib=40_000,
            cpu_milli=8000,
            memory_mib=65_536,
        ),
        "2 whole GPUs on one node, A100 or H100, ≥ 40,000 MiB each; 8 CPUs, 64 GiB",
        "2 GPUs, one node",
    ),
    "a gang anywhere": (Demand(num_gpus=16, gang="any"), "16 whole GPUs on any nodes", "16 GPUs"),
    "a share": (
        Demand(num_gpus=1, gpu_milli=500, gpu_memory_mib=20_000, memory_mib=512),
        "0.5 of a GPU, 20,000 MiB; 512 MiB",
        "0.5 GPU",
    ),
    # A share stated by its MiB: the coordinator counts it as a thousandth at least.
    "a share by memory": (
        Demand(num_gpus=1, gpu_milli=1, gpu_memory_mib=20_000),
        "20,000 MiB of a GPU",
        "20,000 MiB",
    ),
}


@pytest.mark.parametrize("demand", DEMANDS)
def test_a_demand_is_put_in_words(demand: str) -> None:
    asked, whole, short = DEMANDS[demand]
    assert (demand_text(asked), demand_in_short(asked)) == (whole, short)


@pytest.mark.parametrize(
    ("devices", "text"),
    [
        ("0", "0"),
        ("01", "0, 1"),
        ("3210", "0–3"),
        ("01356", "0, 1, 3, 5, 6"),
        ("01256789", "0–2, 5–9"),
    ],
)
def test_neighbouring_devices_are_joined(devices: str, text: str) -> None:
    assert devices_text(list(devices)) == text


def test_a_uuid_is_cut_and_never_taken_for_a_number() -> None:
    assert devices_text(["GPU-8f6b2c1d-1111", "1"]) == "GPU-8f6b2c1…, 1"


def test_a_placement_names_nodes_devices_and_shares() -> None:
    beside = HostShare(node="node-c", cpu_milli=1000, memory_mib=1)
    whole = Placement(gpus=(*shares("node-a", "012"), *shares("node-b", "7")), hosts=(beside,))
    assert placement_text(whole) == "node-a (GPUs 0–2) and node-b (GPU 7) and node-c (no GPU)"
    assert placement_text(Placement(gpus=shares("node-a", "3", 250))) == "node-a (0.25 of GPU 3)"
    assert placement_text(Placement()) == ""


def test_a_run_is_called_by_its_job_or_by_its_assets() -> None:
    partition = {"dagster/partition": "2026-11-22|glossary-00"}
    assert run_name(make_run(TRAINING, job_name="nightly", tags=partition)) == "nightly[2026-11-22|glossary-00]"
    assert run_name(make_run(TRAINING, assets=("b", "a"))) == "a, b"
    assert run_name(make_run(TRAINING, assets=("b", "a", "deep/c", "d"))) == "a, b and 2 more"
    spanning = {"dagster/asset_partition_range_start": "s0", "dagster/asset_partition_range_end": "s9"}
    assert partition_in(spanning) == "s0…s9"


def test_times_say_the_day_only_where_it_is_another() -> None:
    assert clock_text(NOW, NOW) == "14:13"
    assert clock_text(NOW + 12 * HOUR, NOW) == "Tue 02:13"
    assert clock_text(NOW + 240 * HOUR, NOW) == "1 Oct 14:13"
    assert until_text(NOW + 15 * MINUTE, NOW) == "about 14:28 UTC (in 15 min)"
    assert until_text(NOW - 3 * MINUTE, NOW) == "any moment (3 min overdue)"
    assert since_text(NOW - 2 * HOUR, NOW) == "12:13 UTC (2 h ago)"
