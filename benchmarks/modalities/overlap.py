"""--overlap: stages of different speed: how much of the time the slowest one works, in a whole deployment.

A campaign writes, paints and speaks on timed devices (`timed_device`): the painter is the slowest. Its steps are apart,
so each partition has three runs, and while one partition is painted the next is written and the one before is spoken.

- Ours: `headrace run` in a fresh clone of what is committed, whose set-up is done: code server, daemon, webserver,
  coordinator, a process for each run; three pretended GPUs, one for each kind. `--sharers` runs share one
  and take turns: while one works, the next starts. Rows are reviewed, sealed, and made exactly once.
- Peers (`--peers ray,daft`): the same rows and devices in one streaming job with an actor a stage. They keep no record
  of what was made: a job that dies begins anew.
- Measured from the devices' own records: of the time between the painter's first and last item, the share in which its
  device worked. `gaps` are the longest pauses.
"""

import os
import socket
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil

from benchmarks.measuring import Bars, ChildFailed, at_least, at_most, print_table, progress, rounded, run_child
from benchmarks.modalities.parts import Given
from benchmarks.modalities.timed_device import PLACE
from benchmarks.modalities.timed_records import Record, busy_share, gaps, records_in
from benchmarks.parts import Outcome
from pipelines.setup import RAY_AND_DAFT

CHECKOUT = Path(__file__).parents[2]
# Seconds an item, in the order of the chain.
ITEM_SECONDS = {"text": 0.02, "image": 0.15, "speech": 0.05}
_GPUS = {"text": "T4", "image": "L4", "speech": "A10"}
_MICRO_BATCH_ROWS = 16
_SECONDS_MAX = 900.0
_CAMPAIGN = """
name: overlap
num_shards: {partitions}
micro_batch_rows: {micro_batch_rows}
prompts: {{files: ./prompts.jsonl}}
chain: [writer, painter, speaker]
roles:
  writer: {{model: timed-writer, version: "1", registered: false, engine: {{name: timed, item_seconds: {text}}}}}
  painter:
    model: timed-painter
    version: "1"
    registered: false
    engine: {{name: timed, item_seconds: {image}}}
    picture: {{width: 32, height: 32}}
  speaker:
    model: timed-speaker
    version: "1"
    registered: false
    engine: {{name: timed, item_seconds: {speech}}}
    speech: {{duration_seconds_max: 20}}
apart:
  text: {{gpus: {share}, turns: {turns}, gpu_models: [T4]}}
  image: {{gpus: {share}, turns: {turns}, gpu_models: [L4]}}
  speech: {{gpus: {share}, turns: {turns}, gpu_models: [A10]}}
"""


def run(given: Given, directory: Path) -> Outcome:
    ways: dict[str, list[Record]] = {}
    facts: dict[str, Any] = {}
    load_before = os.getloadavg()[0]
    progress.print("overlap: headrace")
    ways["headrace"], facts["runs"] = ours(directory / "headrace", given)
    for peer in ("ray", "daft"):
        if peer in given.peers:
            progress.print(f"overlap: {peer}")
            ways[peer] = peers_records(directory / peer, peer, given)
    wanted = given.partitions * given.rows
    body = {
        "partitions": given.partitions,
        "rows": wanted,
        "item_seconds": ITEM_SECONDS,
        "sharers": given.sharers,
        "cores": os.cpu_count(),
        "load": [rounded(load_before), rounded(os.getloadavg()[0])],
        "ways": {name: _figures(records) for name, records in ways.items()},
        **facts,
    }
    rows = [
        [name, *(f"{figures[key]:.3g}" for key in ("painter_busy", "painter_seconds", "overall_seconds"))]
        for name, figures in body["ways"].items()
    ]
    print_table(f"{wanted} rows", ["", "painter busy", "its seconds", "all seconds"], rows)
    made = Counter((one.kind, one.unit) for one in ways["headrace"])
    bars: Bars = {
        "overlap_painter_busy": at_least(body["ways"]["headrace"]["painter_busy"], 0.95),
        "overlap_partitions": at_least(given.partitions, 10),
        "overlap_made": at_least(len(made), 3 * wanted),
        "overlap_made_twice": at_most(sum(made.values()) - len(made), 0),
    }
    return Outcome(body=body, bars=bars)


def ours(directory: Path, given: Given) -> tuple[list[Record], Mapping[str, Any]]:
    """Raises: ChildFailed: the command failed, or took too long."""
    clone, devices = directory / "clone", directory / "devices"
    devices.mkdir(parents=True)
    subprocess.run(["git", "clone", "--quiet", str(CHECKOUT), str(clone)], check=True)
    (clone / ".env").write_text(f"DAGSTER_HOME={clone / 'dagster_home'}\n")
    instance = clone / "dagster_home/dagster.yaml"
    before = "max_concurrent_runs: 2\n"
    text = instance.read_text()
    assert before in text, f"{instance} has another limit of runs than this benchmark knows"
    # Runs wait for devices here, not for the cores; one more reviews.
    instance.write_text(text.replace(before, f"max_concurrent_runs: {len(_GPUS) * given.sharers + 1}\n"))
    campaigns = clone / "resources/campaigns"
    for other in campaigns.glob("*.yaml"):
        other.unlink()
    shape = {
        "partitions": given.partitions,
        "micro_batch_rows": _MICRO_BATCH_ROWS,
        # Rounded down, so that all fit.
        "share": f"{int(100 / given.sharers) / 100:g}",
        "turns": "true" if given.sharers > 1 else "false",
    }
    (campaigns / "overlap.yaml").write_text(_CAMPAIGN.format(**shape, **ITEM_SECONDS))
    lines = (f'{{"text": "Define word {number}."}}\n' for number in range(given.partitions * given.rows))
    (campaigns / "prompts.jsonl").write_text("".join(lines))
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(directory),
        "LANG": "C.UTF-8",
        "PYTHONPATH": os.pathsep.join([str(clone), str(_installed(directory / "site-packages"))]),
        "HEADRACE_PORT": str(_free_port()),
        "HEADRACE_GPUS": ",".join(f"1x{model}:24576" for model in _GPUS.values()),
        PLACE: str(devices),
    }
    command = [str(Path(sys.executable).with_name("headrace")), "run", "overlap"]
    try:
        done = subprocess.run(
            command, cwd=clone, env=environment, capture_output=True, text=True, timeout=_SECONDS_MAX, check=False
        )
    finally:
        _end_processes_of(devices)
    if done.returncode:
        raise ChildFailed(f"headrace run ended with {done.returncode}:\n{f'{done.stdout}{done.stderr}'[-4000:]}")
    return records_in(devices), _runs_of(clone / "dagster_home")


def peers_records(directory: Path, peer: str, given: Given) -> list[Record]:
    directory.mkdir()
    task = {"peer": peer, "rows": given.partitions * given.rows, "partitions": given.partitions}
    run_child(
        "benchmarks.modalities.timed_peers",
        {**task, "item_seconds": ITEM_SECONDS, "batch_rows": _MICRO_BATCH_ROWS},
        environment={PLACE: str(directory), "DAFT_ANALYTICS_ENABLED": "0", "RAY_USAGE_STATS_ENABLED": "0"},
        interpreter=RAY_AND_DAFT / "bin/python",
    )
    return records_in(directory)


def _figures(records: Sequence[Record]) -> dict[str, Any]:
    painted = [one for one in records if one.kind == "image"]
    begun, ended = min(one.begun for one in painted), max(one.ended for one in painted)
    return {
        "painter_busy": rounded(busy_share(painted), 4),
        "painter_seconds": rounded(ended - begun),
        "overall_seconds": rounded(max(one.ended for one in records) - min(one.begun for one in records)),
        "busy_seconds": {
            kind: rounded(sum(one.ended - one.begun for one in records if one.kind == kind)) for kind in ITEM_SECONDS
        },
        "painter_processes": len({one.process for one in painted}),
        "gaps": [
            {"at": rounded(gap.begun - begun), "seconds": rounded(gap.seconds), "same_process": gap.is_within_process}
            for gap in gaps(painted)[:5]
        ],
    }


def _runs_of(dagster_home: Path) -> Mapping[str, Any]:
    """Job → the median seconds of its runs in the queue, from their launch to their start, and at work."""
    [database] = dagster_home.rglob("runs.db")
    with sqlite3.connect(f"file:{database}?mode=ro", uri=True) as connection:
        rows = connection.execute(
            "select pipeline_name, strftime('%s', create_timestamp), start_time, end_time from runs "
            "where start_time is not null and end_time is not null"
        ).fetchall()
    by_job: dict[str, list[tuple[float, float]]] = {}
    for job, created, started, ended in rows:
        by_job.setdefault(job, []).append((started - float(created), ended - started))
    return {
        job: {
            "runs": len(found),
            "until_started": rounded(_median([one for one, _ in found])),
            "at_work": rounded(_median([one for _, one in found])),
        }
        for job, found in by_job.items()
    }


def _median(values: Sequence[float]) -> float:
    return sorted(values)[len(values) // 2]


def _installed(directory: Path) -> Path:
    """What an installer makes of a package that offers the engine `timed`."""
    info = directory / "timed-1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: timed\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[headrace.engines]\ntimed = benchmarks.modalities.timed_engine:KIND\n")
    return directory


def _end_processes_of(devices: Path) -> None:
    """Workers have sessions of their own, and go on when who started them is gone."""
    for process in psutil.process_iter():
        try:
            if process.environ().get(PLACE) == str(devices):
                process.kill()
        except psutil.Error:
            continue
    time.sleep(0.5)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
