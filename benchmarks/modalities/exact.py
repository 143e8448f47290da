"""Same bytes: every kind's engine in batches of 1, 4, 7 and 16, in any order, among any neighbours."""

import random
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from benchmarks.modalities.chain import ChainSite, texts_of
from headrace.engines.asking import answers_of, close, media_of
from headrace.engines.base import Message, Turn
from headrace.engines.deployment import Deployment
from headrace.engines.event_loop import LoopThread
from headrace.engines.media import MediaTurn
from headrace.engines.registry import open_engine, open_media_engine
from headrace.version_sets.sets import VersionSet

SIZES = (1, 4, 7, 16)
NUM_ROWS = 16
_SEEDS = range(NUM_ROWS)
# Row → its bytes, for each row of a batch.
Made = Callable[[Sequence[int]], list[bytes]]


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


def stock_equal(pipeline: Any, size: int, guidance_scale: float) -> dict[str, int]:
    """Of `NUM_ROWS` pictures of a pipeline as its library calls it, how many have batches of 4's bytes in others."""
    import torch

    def painted(rows: Sequence[int]) -> list[bytes]:
        generators = [torch.Generator().manual_seed(_SEEDS[row]) for row in rows]
        given: dict[str, Any] = {"use_resolution_binning": False} if "PRX" in type(pipeline).__name__ else {}
        made = pipeline(
            [texts_of(NUM_ROWS)[row] for row in rows],
            generator=generators,
            height=size,
            width=size,
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
