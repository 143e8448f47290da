"""Same bytes: batches of 1, 4, 7 and 16, any order and neighbours; kill -9 at random moments of a run of all kinds.

Rows of every kind are made together once, and then again in batches of other sizes, in another order, and each among
strangers; a row counts as equal if its text or its file has the same bytes. Beside that, pictures by the library's own
call of the same pipelines, with the same seeds: how many have the bytes that batches of 4 give. One of them takes
several texts only without guidance.

Then runs of a campaign of a writer, a painter and a speaker are killed at random moments and gone on with, until they
are done: what they sealed is compared with a run that nobody killed. Of `--peers`, data-designer is killed as well.
"""

import random
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.measuring import at_least, at_most, print_table, progress
from benchmarks.modalities.chain import ChainSite, Models, chain_campaign, texts_of
from benchmarks.modalities.designer_kills import killed_designer
from benchmarks.modalities.kills import killed_runs
from benchmarks.modalities.parts import Given
from benchmarks.parts import Outcome
from headrace.engines.asking import answers_of, close, media_of
from headrace.engines.base import Message, Turn
from headrace.engines.deployment import Deployment
from headrace.engines.event_loop import LoopThread
from headrace.engines.media import MediaTurn
from headrace.engines.registry import open_engine, open_media_engine
from headrace.version_sets.sets import VersionSet

SIZES = (1, 4, 7, 16)
DESIGNER = "data-designer"
# Each costs it a start of its own, of some seconds.
_PEER_KILLS_MAX = 20
NUM_ROWS = 16
_SEEDS = range(NUM_ROWS)
# Row → its bytes, for each row of a batch.
Made = Callable[[Sequence[int]], list[bytes]]


def run(given: Given, directory: Path) -> Outcome:
    models = given.models(directory / "models")
    campaign = chain_campaign(models, micro_batch_rows=4)
    site = ChainSite(directory / "prepared", campaign)
    site.prepare(models, texts_of(24))
    progress.print("batches")
    found = equal_bytes(site, site.sets.get(site.sets.ids()[0]))
    stock = {name: stock_equal(path, size, guided) for name, path, size, guided in _stock(models, directory)}
    progress.print(f"{given.kills} kills")
    tally = killed_runs(directory / "prepared", lambda path: ChainSite(path, campaign), directory / "runs", given.kills)
    others = sum(one["rows"] - one["equal"] for one in found.values())
    print_table(
        "Rows made again in batches of 1, 4, 7 and 16",
        ["role", "rows", "equal bytes"],
        [[role, str(one["rows"]), str(one["equal"])] for role, one in found.items()],
    )
    body: dict[str, Any] = {
        "batches": found,
        "stock": stock,
        "kills": {**vars(tally), "killed_in": dict(tally.killed_in)},
    }
    if DESIGNER in given.peers:
        progress.print(f"{DESIGNER}, {min(given.kills, _PEER_KILLS_MAX)} kills")
        peer = killed_designer(directory / "designer", min(given.kills, _PEER_KILLS_MAX))
        body[DESIGNER] = peer
        print_table(
            "Data Designer, texts alone, by its own resume",
            ["", "of all kills"],
            [[*map(str, one)] for one in peer.items()],
        )
    print_table(
        f"The same pipelines as their library calls them: of {NUM_ROWS} pictures, with batches of 4's bytes",
        ["pipeline", *(f"batches of {size}" for size in SIZES if size != 4)],
        [[name, *map(str, one.values())] for name, one in stock.items()],
    )
    return Outcome(
        body=body,
        bars={
            "rows_of_other_bytes_in_another_batch": at_most(others, 0),
            "kills": at_least(tally.kills, given.kills),
            "lost_after_kills": at_most(tally.lost, 0),
            "doubled_after_kills": at_most(tally.doubled, 0),
            "other_bytes_after_kills": at_most(tally.other_bytes, 0),
            "micro_batches_redone_a_kill": at_most(tally.redone_max, 1),
        },
    )


def equal_bytes(site: ChainSite, version_set: VersionSet) -> dict[str, dict[str, int]]:
    """Role → how many rows were made again in another batch, and how many of them had the same bytes."""
    found = {}
    for member in version_set.members:
        loop = LoopThread()
        spec = version_set.engine_of(member.role)
        if member.kind == "text":
            engine: Any = open_engine(member, spec, site.objects, Deployment())
            make = partial(_texts, engine)
        else:
            engine = open_media_engine(member, spec, site.objects, Deployment())
            make = partial(_media, engine, member)
        try:
            found[member.role] = _compared(lambda rows, make=make, loop=loop: loop.run(make(rows)))
        finally:
            loop.run(close(engine))
            loop.close()
    return found


def _stock(models: Models, directory: Path) -> list[tuple[str, Path, int, float]]:
    """Pipelines with their pixels a side and their guidance."""
    from simulation.tiny_pipelines import build_latent_pipeline

    latent = build_latent_pipeline(directory / "latent")
    return [("in pixels, unguided", models.painter, models.size, 1.0), ("latent, guided", latent, 32, 5.0)]


def stock_equal(directory: Path, side: int, guidance_scale: float) -> dict[str, int]:
    """Of `NUM_ROWS` pictures of a pipeline as its library calls it, how many have batches of 4's bytes in others."""
    import torch
    from diffusers.pipelines.pipeline_utils import DiffusionPipeline

    pipeline: Any = DiffusionPipeline.from_pretrained(str(directory), local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    torch.set_num_threads(1)

    def painted(rows: Sequence[int]) -> list[bytes]:
        generators = [torch.Generator().manual_seed(_SEEDS[row]) for row in rows]
        given: dict[str, Any] = {"use_resolution_binning": False} if "PRX" in type(pipeline).__name__ else {}
        made = pipeline(
            [texts_of(NUM_ROWS)[row] for row in rows],
            generator=generators,
            height=side,
            width=side,
            num_inference_steps=12,
            guidance_scale=guidance_scale,
            **given,
        )
        return [image.tobytes() for image in made.images]

    reference = _in_batches(painted, list(range(NUM_ROWS)), 4)
    return {
        f"in batches of {size}": sum(
            one == other
            for one, other in zip(reference, _in_batches(painted, list(range(NUM_ROWS)), size), strict=True)
        )
        for size in SIZES
        if size != 4
    }


def _compared(make: Made) -> dict[str, int]:
    rows = list(range(NUM_ROWS))
    reference = make(rows)
    num_made = num_equal = 0
    for size in SIZES:
        for seed in range(2):
            shuffled = random.Random(seed * 100 + size).sample(rows, len(rows))
            again = dict(zip(shuffled, _in_batches(make, shuffled, size), strict=True))
            # The second time, strangers share the batch.
            if seed:
                again = {row: make([row, *(NUM_ROWS + one for one in range(size - 1))])[0] for row in shuffled}
            num_made += len(again)
            num_equal += sum(again[row] == reference[row] for row in rows)
    return {"rows": num_made, "equal": num_equal, "different_rows": len({*reference})}


def _in_batches(make: Made, rows: Sequence[int], size: int) -> list[bytes]:
    return [one for start in range(0, len(rows), size) for one in make(rows[start : start + size])]


async def _texts(engine: Any, rows: Sequence[int]) -> list[bytes]:
    texts = texts_of(2 * NUM_ROWS)
    turns = [
        Turn(
            unit=str(row),
            messages=(Message(role="user", content=texts[row]),),
            temperature=0.7,
            top_p=0.9,
            max_tokens=16,
            seed=row,
        )
        for row in rows
    ]
    return [_sound(one).text.encode() for one in await answers_of(engine, turns)]


async def _media(engine: Any, member: Any, rows: Sequence[int]) -> list[bytes]:
    texts = texts_of(2 * NUM_ROWS)
    turns = [MediaTurn(unit=str(row), text=texts[row], seed=row) for row in rows]
    return [_sound(one)[0].content for one in await media_of(engine, member, turns)]


def _sound(outcome: Any) -> Any:
    """Raises: TurnRefused, EngineBusy, EngineFailed: nothing was made."""
    if isinstance(outcome, Exception):
        raise outcome
    return outcome
