"""kill -9 at random moments of a run of all kinds, which is gone on with until it is done.

Each run is a process of its own, forked from one that has imported the libraries and loaded nothing: their import takes
longer than the run. Every trial has a new store. A worker writes down each call of an engine before it makes it.
"""

import os
import random
import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.modalities.chain import TABLES, ChainSite, logged

_RUN_SECONDS_MAX = 300
_IMPORTS = ("transformers.models.llama.modeling_llama", "diffusers.pipelines.prx.pipeline_prx_pixel", "onnxruntime")


@dataclass
class Tally:
    """`redone_max`: micro-batches that one kill had made again, at most. `killed_in`: what was under way."""

    kills: int = 0
    runs: int = 0
    lost: int = 0
    doubled: int = 0
    other_bytes: int = 0
    redone_max: int = 0
    redone: int = 0
    killed_in: Counter[str] = field(default_factory=Counter)


def killed_runs(
    prepared: Path, open_site: Callable[[Path], ChainSite], scratch: Path, num_kills: int, *, seed: int = 0
) -> Tally:
    """Kills `num_kills` runs, each in a copy of the prepared store, and finishes them."""
    # What every worker needs, once: a fork has it.
    import transformers.models.auto.modeling_auto  # noqa: F401

    draw, tally = random.Random(seed), Tally()
    whole = scratch / "whole"
    shutil.copytree(prepared, whole)
    started = time.monotonic()
    assert _run(open_site, whole, kill_after=None)
    seconds = time.monotonic() - started
    reference = open_site(whole).made()
    num_calls = _num_calls(whole)
    while tally.kills < num_kills:
        directory = scratch / "killed"
        shutil.copytree(prepared, directory)
        # A kill may meet the next run as well, as it may in life.
        num_killed = 0
        while not _run(open_site, directory, kill_after=draw.uniform(0, seconds) if num_killed < 2 else None):
            num_killed += 1
            tally.killed_in[_under_way(open_site(directory))] += 1
        tally.runs += 1
        tally.kills += num_killed
        redone = _num_calls(directory) - num_calls
        tally.redone += redone
        tally.redone_max = max(tally.redone_max, -(-redone // num_killed) if num_killed else redone)
        _compare(open_site(directory), reference, tally)
        shutil.rmtree(directory)
    return tally


def _run(open_site: Callable[[Path], ChainSite], directory: Path, *, kill_after: float | None) -> bool:
    """A worker in a process of its own. True: it made and sealed the partition before it was killed."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            open_site(directory).make("run", logged(directory.with_suffix(".calls")))
            status = 0
        finally:
            os._exit(status)
    deadline = time.monotonic() + (_RUN_SECONDS_MAX if kill_after is None else kill_after)
    while time.monotonic() < deadline:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            if status:
                raise RuntimeError(f"A worker ended with status {status} by itself.")
            return True
        time.sleep(0.002)
    os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    if kill_after is None:
        raise RuntimeError(f"A worker was not done within {_RUN_SECONDS_MAX} s.")
    # It may have ended in the last moment.
    return status == 0


def _num_calls(directory: Path) -> int:
    path = directory.with_suffix(".calls")
    found = len(path.read_text().splitlines()) if path.exists() else 0
    path.unlink(missing_ok=True)
    return found


def _under_way(site: ChainSite) -> str:
    """The step that a kill met: the first one that is not all committed."""
    keys = list(site.objects.list("batches"))
    for role in ("speaker", "painter"):
        if any(role in key for key in keys):
            return role
    return "writer" if keys else "before the first batch"


def _compare(site: ChainSite, reference: dict[str, str | bytes], tally: Tally) -> None:
    made = site.made()
    tally.lost += len(reference.keys() - made.keys())
    tally.other_bytes += sum(made[name] != reference[name] for name in reference.keys() & made.keys())
    key = site.partition().key
    for asset in ("generated_content", *TABLES.values()):
        # A second version, or a second row of one prompt.
        tally.doubled += len(site.handoffs.versions(asset, key)) - 1
    tally.doubled += site.handoffs.open("generated_content", key).num_rows - len(reference) // 3
