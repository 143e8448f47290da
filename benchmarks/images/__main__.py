"""Captioned pictures: how fast a folder is read, and how well twins are told from pictures that only look similar.

`python -m benchmarks.images [--pictures 200] [--originals 60] [--runs 3]`. Speed: each side is a process of its own
that reads the same folder; they take turns, and CPU seconds are of the whole process. Twins: every original has ten
changed copies that are the same picture and six that are another; `imagehash` is its 64-bit hash of grey values within
8 bits, which is what is commonly used. Judging: random signatures, a tenth of them near copies.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from benchmarks.images.planted import Planted, planted
from benchmarks.images.sides import SIDES
from benchmarks.measuring import (
    MB,
    Bars,
    at_least,
    finish,
    in_turns,
    measured,
    median,
    num_bytes_below,
    parser_of,
    print_table,
    progress,
    rounded,
    run_child,
    scratch,
    whole,
)
from headrace.prep.images.corpus import ImageDuplicates
from headrace.prep.images.duplicates import best_first, copies
from headrace.prep.images.resizing import Resize
from headrace.prep.images.signatures import Signature, signature_of
from simulation.pictures import KINDS, landscape

_SIZES = {
    "JPEG 3000 x 2000": (3000, 2000, "jpg"),
    "JPEG 800 x 533": (800, 533, "jpg"),
    "PNG 800 x 533": (800, 533, "png"),
}
_PIXELS = 512
_HASH_BITS_MAX = 8


def main(arguments: list[str] | None = None) -> int:
    parser = parser_of("images", __doc__)
    parser.add_argument("--pictures", type=whole(1), default=200, help="of each form")
    parser.add_argument("--originals", type=whole(6), default=60, help="of each kind")
    parser.add_argument("--signatures", type=whole(1000), default=200_000)
    parser.add_argument("--runs", type=whole(1), default=3)
    given = parser.parse_args(arguments)
    with scratch("images") as directory:
        speeds = _speeds(directory, given.pictures, given.runs)
    print_table(
        f"Read, compared, resized to {_PIXELS} and sealed",
        ["pictures", *(f"{side}, {unit}" for side in SIDES for unit in ("a CPU s", "MB a CPU s"))],
        [[form, *(f"{value:g}" for side in SIDES for value in sides[side])] for form, sides in speeds.items()],
    )
    ours, theirs = _twins(given.originals)
    print_table(
        "Twins",
        ["", "headrace recall", "precision", "imagehash recall", "precision"],
        [[kind, *(f"{share:.1%}" for share in (*ours[kind], *theirs[kind]))] for kind in ours],
    )
    judging = _judging(given.signatures)
    progress.print(f"duplicates among {given.signatures:,} signatures: {judging:.2f} CPU s")
    recall, precision = ours["all"]
    bars: Bars = {
        "twins_recall": at_least(rounded(recall, 4), 0.95),
        "twins_precision": at_least(rounded(precision, 4), 0.98),
    }
    body: dict[str, Any] = {
        "benchmark": "images",
        "images_and_mb_per_cpu_s": speeds,
        "recall_and_precision": {kind: [rounded(share, 4) for share in shares] for kind, shares in ours.items()},
        "imagehash": {kind: [rounded(share, 4) for share in shares] for kind, shares in theirs.items()},
        "signatures": given.signatures,
        "judging_cpu_s": rounded(judging),
    }
    return finish(body, bars, given.json)


def _speeds(directory: Path, num: int, num_runs: int) -> dict[str, dict[str, tuple[float, float]]]:
    """Form → side → pictures and MB of files a CPU second."""
    speeds: dict[str, dict[str, tuple[float, float]]] = {}
    for number, (form, (width, height, suffix)) in enumerate(_SIZES.items()):
        source = directory / f"source-{number}"
        source.mkdir()
        random = np.random.default_rng(number)
        base = landscape(random, width, height)
        for one in range(num):
            # Each is another picture; made from one, since making them costs more than reading them.
            base.rotate(float(random.uniform(-3, 3))).save(source / f"{one:05d}.{suffix}")
            (source / f"{one:05d}.txt").write_text(f"a landscape with the number {one}")
        num_bytes = num_bytes_below(source)
        costs: dict[str, list[float]] = {side: [] for side in SIDES}
        for run, side in in_turns(form, num_runs, list(SIDES)):
            target = directory / f"{side}-{number}-{run}"
            task = {"side": side, "source": str(source), "target": str(target), "pixels": _PIXELS}
            result = run_child("benchmarks.images.sides", task)
            assert result.body["num_images"] == num
            costs[side].append(result.cpu_seconds)
        seconds = {side: median(found) for side, found in costs.items()}
        speeds[form] = {side: (rounded(num / cost), rounded(num_bytes / MB / cost)) for side, cost in seconds.items()}
    return speeds


Shares = dict[str, tuple[float, float]]  # kind, or "all" → recall and precision


def _twins(num_originals: int) -> tuple[Shares, Shares]:
    pictures = list(planted(num_originals, seed=1))
    signatures = [_signature(one) for one in pictures]
    table = pl.DataFrame(
        [
            {**vars(signature), "width": one.picture.width, "height": one.picture.height, "image_id": str(place),
             "source_file": f"{place:06d}", "source_line": 0, "caption_key": "x"}
            for place, (one, signature) in enumerate(zip(pictures, signatures, strict=True))
        ],
        schema_overrides={"coarse_hash": pl.UInt64},
    )  # fmt: skip
    ordered = best_first(table)
    ours = copies(ordered, ImageDuplicates()).get_column("copy_of").to_list()
    in_order = [pictures[int(place)] for place in ordered.get_column("image_id")]
    theirs = _by_one_hash([one.picture for one in in_order])
    return _shares(in_order, ours), _shares(in_order, theirs)


def _signature(one: Planted) -> Signature:
    size = Resize(pixels=_PIXELS).scaled_size(*one.picture.size)
    shown = one.picture if size == one.picture.size else one.picture.resize(size)
    return signature_of(shown, width=one.picture.width, height=one.picture.height)


def _by_one_hash(pictures: Sequence[Any]) -> list[int | None]:
    import imagehash

    hashes = np.array([int(str(imagehash.phash(one)), 16) for one in pictures], np.uint64)
    kept: list[int] = []
    copy_of: list[int | None] = []
    for place, own in enumerate(hashes):
        near = np.flatnonzero(np.bitwise_count(hashes[kept] ^ own) <= _HASH_BITS_MAX) if kept else np.empty(0, int)
        copy_of.append(kept[int(near[0])] if len(near) else None)
        if not len(near):
            kept.append(place)
    return copy_of


def _shares(pictures: Sequence[Planted], copy_of: Sequence[int | None]) -> Shares:
    shares: Shares = {}
    for kind in (*KINDS, "photograph", "all"):
        places = [place for place, one in enumerate(pictures) if kind in (one.kind, "all")]
        num_twins = len(places) - len({pictures[place].identity for place in places})
        removed = [(place, copy_of[place]) for place in places if copy_of[place] is not None]
        right = sum(pictures[place].identity == pictures[original or 0].identity for place, original in removed)
        shares[kind] = right / num_twins, right / max(1, len(removed))
    return shares


def _judging(num: int) -> float:
    """CPU seconds for duplicates among random signatures, a tenth of them near copies."""
    random = np.random.default_rng(3)
    fine = random.integers(0, 256, (num, 32), np.uint8)
    coarse = random.integers(0, 2**64, num, np.uint64, endpoint=False)
    near = slice(num - num // 10, num)
    fine[near], coarse[near] = fine[: num // 10], coarse[: num // 10]
    fine[near, 3] ^= 0b101
    coarse[near] ^= np.uint64(0b11)
    table = pl.DataFrame(
        {
            "coarse_hash": coarse,
            "fine_hash": [row.tobytes() for row in fine],
            "colours": [bytes(27)] * num,
            "pixels": [number.to_bytes(16, "big") for number in range(num)],
            "caption_key": ["x"] * num,
        }
    )
    copies(table[:1000], ImageDuplicates())
    with measured() as cost:
        found = copies(table, ImageDuplicates())
    assert found.get_column("rule").is_not_null().sum() == num // 10
    return cost.cpu_seconds


if __name__ == "__main__":
    sys.exit(main())
