"""Runs, demands, places and times in the commands' words.

Times of day are UTC, as in the planner's sentences beside them: two clocks in one table would be worse than a distant
one.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from headrace.command_line.output import age_text, counted
from headrace.placement.demand import WHOLE, Demand
from headrace.placement.placements import Placement

if TYPE_CHECKING:
    from dagster import DagsterRun

_PARTITION = "dagster/partition"
_RANGE = ("dagster/asset_partition_range_start", "dagster/asset_partition_range_end")
# Dagster's job name for a run that was requested by its assets.
_ASSET_JOBS = "__ASSET_JOB"
_ID_CHARS = 8
_DEVICE_CHARS = 12
_GIB = 1024
_NUM_ASSETS_NAMED = 2
_DAY_SECONDS = 86_400


def short_id(run_id: str) -> str:
    return run_id[:_ID_CHARS]


def stated_job(job_name: str) -> str:
    """Empty for a run that was requested by its assets."""
    return "" if job_name.startswith(_ASSET_JOBS) else job_name


def partition_in(tags: Mapping[str, str]) -> str | None:
    """The partition key, or `first…last` of a range."""
    first, last = (tags.get(tag) for tag in _RANGE)
    return tags.get(_PARTITION) or (f"{first}…{last}" if first and last else None)


def run_name(run: "DagsterRun") -> str:
    return name_of(run.job_name, (key.to_user_string() for key in run.asset_selection or ()), run.tags)


def name_of(job_name: str, assets: Iterable[str], tags: Mapping[str, str]) -> str:
    """`nightly[2026-11-22]`: its job, or an ad hoc run's assets."""
    keys = sorted(assets)
    more = f" and {len(keys) - _NUM_ASSETS_NAMED} more" if len(keys) > _NUM_ASSETS_NAMED else ""
    name = stated_job(job_name) or ", ".join(keys[:_NUM_ASSETS_NAMED]) + more or job_name
    partition = partition_in(tags)
    return f"{name}[{partition}]" if partition else name


def demand_text(demand: Demand) -> str:
    """`2 whole GPUs on one node, H100 or A100, ≥ 40,000 MiB each; 8 CPUs, 64 GiB`."""
    words = [_gpus_text(demand)]
    if demand.num_gpus and demand.gpu_models:
        words.append(" or ".join(sorted(demand.gpu_models)))
    if demand.num_gpus and demand.gpu_memory_mib and not _is_by_memory(demand):
        each = " each" if demand.num_gpus > 1 else ""
        words.append(f"{demand.gpu_memory_mib:,} MiB" if demand.is_shared else f"≥ {demand.gpu_memory_mib:,} MiB{each}")
    beside = []
    if demand.cpu_milli:
        beside.append(f"{demand.cpu_milli / 1000:g} {'CPU' if demand.cpu_milli == 1000 else 'CPUs'}")
    if demand.memory_mib:
        beside.append(memory_text(demand.memory_mib))
    return "; ".join([", ".join(words), *([", ".join(beside)] if beside else [])])


def _gpus_text(demand: Demand) -> str:
    if not demand.num_gpus:
        return "no GPU"
    if demand.is_shared:
        share = f"{demand.gpu_memory_mib:,} MiB" if _is_by_memory(demand) else share_text(demand.gpu_milli)
        return f"{share} of a GPU"
    if demand.num_gpus == 1:
        return "1 whole GPU"
    return f"{demand.num_gpus} whole GPUs on {'one node' if demand.gang == 'node' else 'any nodes'}"


def demand_in_short(demand: Demand) -> str:
    """`8 GPUs, one node`: short enough for a column."""
    if not demand.num_gpus:
        return f"{demand.cpu_milli / 1000:g} CPU" if demand.cpu_milli else "no GPU"
    if demand.is_shared:
        return f"{demand.gpu_memory_mib:,} MiB" if _is_by_memory(demand) else f"{share_text(demand.gpu_milli)} GPU"
    gang = ", one node" if demand.num_gpus > 1 and demand.gang == "node" else ""
    return counted(demand.num_gpus, "GPU") + gang


def _is_by_memory(demand: Demand) -> bool:
    """A share that only states memory; its thousandths follow from the GPU's size."""
    return demand.is_shared and demand.gpu_milli == 1 and demand.gpu_memory_mib > 0


def share_text(milli: int) -> str:
    """`0.5`, `0.125`."""
    return f"{milli / WHOLE:g}"


def memory_text(memory_mib: int) -> str:
    return f"{memory_mib / _GIB:,.0f} GiB" if memory_mib >= 10 * _GIB else f"{memory_mib:,} MiB"


def device_name(device: str) -> str:
    """Unchanged, but with a short UUID for a GPU or a MIG slice."""
    return device if len(device) <= _DEVICE_CHARS else device[: _DEVICE_CHARS - 1] + "…"


def devices_text(devices: Sequence[str]) -> str:
    """`0–3, 6`: neighbours joined."""
    if not all(device.isdecimal() for device in devices):
        return ", ".join(map(device_name, devices))
    texts: list[str] = []
    numbers = sorted(map(int, devices))
    while numbers:
        first = last = numbers.pop(0)
        while numbers and numbers[0] == last + 1:
            last = numbers.pop(0)
        texts.append(str(first) if first == last else f"{first}–{last}" if last > first + 1 else f"{first}, {last}")
    return ", ".join(texts)


def placement_text(placement: Placement) -> str:
    """`node-a (GPUs 0–3) and node-b (0.5 of GPU 1)`; empty for a run that holds nothing."""
    texts = []
    for node in placement.nodes:
        devices = placement.devices_on(node)
        parts = [share for share in placement.gpus if share.node == node and share.milli < WHOLE]
        if not devices:
            texts.append(f"{node} (no GPU)")
        elif parts:
            texts.append(f"{node} ({share_text(parts[0].milli)} of GPU {device_name(parts[0].device)})")
        else:
            texts.append(f"{node} ({'GPU' if len(devices) == 1 else 'GPUs'} {devices_text(devices)})")
    return " and ".join(texts)


def clock_text(at: float, now: float) -> str:
    """`14:05`, on another day `Mon 14:05`, further away `3 Dec 14:05`."""
    when, today = datetime.fromtimestamp(at, UTC), datetime.fromtimestamp(now, UTC)
    if when.date() == today.date():
        return f"{when:%H:%M}"
    if abs(at - now) < 6 * _DAY_SECONDS:
        return f"{when:%a %H:%M}"
    return f"{when.day} {when:%b %H:%M}"


def until_text(until: float, now: float) -> str:
    """`about 14:31 UTC (in 12 min)`; past its own estimate `any moment (3 min overdue)`."""
    if until <= now:
        return f"any moment ({age_text(now - until)} overdue)"
    return f"about {clock_text(until, now)} UTC (in {age_text(until - now)})"


def since_text(since: float, now: float) -> str:
    """`14:02 UTC (12 min ago)`."""
    return f"{clock_text(since, now)} UTC ({age_text(now - since)} ago)"
