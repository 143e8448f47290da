"""Data Designer under kill -9 at random moments, gone on with by its own resume until it is done.

Texts alone, from a local server that counts how often each row was asked for; batches have as many rows as our
micro-batches. Its server answers after a moment, so that most kills meet rows under way and not the start.
"""

import asyncio
import random
import shutil
import subprocess
import time
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from aiohttp import web

from benchmarks.own_campaign.peers import write_prompts
from pipelines.setup import DATA_DESIGNER
from simulation.servers.chat import ChatServer, answering, served

_NUM_ROWS = 48
_ANSWER_SECONDS = 0.3
_RUN_SECONDS_MAX = 300


@dataclass
class Tally:
    """`lost`, `doubled`: rows of finished datasets; `asked_again`: rows that were made and paid for once more.

    `failed`: runs that could not be gone on with, and ended by themselves with an error.
    """

    lost: int = 0
    doubled: int = 0
    asked_again: int = 0
    asked_again_max: int = 0
    failed: int = 0
    runs: int = 0
    kills: int = 0


def killed_designer(scratch: Path, num_kills: int) -> dict[str, Any]:
    """Kills `num_kills` runs and goes on with each."""
    asked: Counter[str] = Counter()

    async def behave(server: ChatServer, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        content = body["messages"][-1]["content"]
        text = content if isinstance(content, str) else content[0]["text"]
        await asyncio.sleep(_ANSWER_SECONDS)
        asked[text] += 1
        return await answering(f"{len(text)} reasons for a thing that nobody else has.")(server, request, body)

    draw, tally = random.Random(0), Tally()
    with served(behave) as server:
        started = time.monotonic()
        assert _ends_well(scratch / "whole", server.url, None)
        seconds = time.monotonic() - started
        in_one_run = sum(asked.values())
        while tally.kills < num_kills:
            asked.clear()
            directory = scratch / "killed"
            killed = 0
            while (done := _ends_well(directory, server.url, draw.uniform(0, seconds) if killed < 2 else None)) is None:
                killed += 1
            tally.runs += 1
            tally.kills += killed
            again = max(0, sum(asked.values()) - in_one_run)
            tally.asked_again += again
            tally.asked_again_max = max(tally.asked_again_max, -(-again // max(killed, 1)))
            if done:
                _count(directory, tally)
            else:
                tally.failed += 1
            shutil.rmtree(directory)
    return asdict(tally)


def _ends_well(directory: Path, server: str, kill_after: float | None) -> bool | None:
    """None: it was killed."""
    if not directory.exists():
        directory.mkdir(parents=True)
        write_prompts(directory, _NUM_ROWS)
    script = Path(__file__).with_name("designer_rows.py")
    with (directory / "log").open("ab") as log:
        child = subprocess.Popen(
            [str(DATA_DESIGNER / "bin/python"), str(script), server, str(_NUM_ROWS)],
            cwd=directory,
            stdout=log,
            stderr=log,
        )
        try:
            return child.wait(_RUN_SECONDS_MAX if kill_after is None else kill_after) == 0
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
            if kill_after is None:
                raise
            return None


def _count(directory: Path, tally: Tally) -> None:
    import pyarrow.parquet as pq

    rows = Counter(row["product"] for row in pq.read_table(directory / "taglines.parquet").to_pylist())
    tally.lost += _NUM_ROWS - len(rows)
    tally.doubled += sum(rows.values()) - len(rows)
