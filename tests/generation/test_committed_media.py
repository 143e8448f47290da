"""Committed pictures are sealed in the order of rows, whatever batches they lie in, and never all of them in memory."""

import tracemalloc
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from headrace.engines.media_bytes import MediaFacts
from headrace.engines.media_rows import MediaRequest, MediaResult
from headrace.errors import HandoffCorrupt
from headrace.generation import committed_media
from headrace.generation.committed_media import CommittedMedia
from headrace.generation.media_batches import MadeMedium, commit_media, read_media
from headrace.generation.requests import Row
from headrace.generation.sealed_tables import IMAGES, MEDIA_EXECUTION
from headrace.handoff.media.reading import WINDOW_BYTES, MediaSet
from tests.generation.builders import TEXTS
from tests.generation.media_builders import MediaSite, make_media_campaign, make_media_site, make_roles

_LARGE_BYTES = 4_000_000


@pytest.fixture
def site(tmp_path: Path) -> MediaSite:
    roles = make_roles()
    del roles["writer"]
    return make_media_site(tmp_path, campaign=make_media_campaign(roles))


def noise(seed: int, num_bytes: int) -> bytes:
    return np.random.default_rng(seed).bytes(num_bytes)


class LargePictures:
    """As many bytes as a large picture has; which, follows from the seed."""

    name, build, deterministic = "large", "", True

    def generate(self, requests: Sequence[MediaRequest]) -> list[MediaResult]:
        facts = MediaFacts(media_type="image/png", width=1, height=1)
        return [
            MediaResult(content=noise(one.seed, _LARGE_BYTES), facts=facts, finish_reason="stop") for one in requests
        ]

    def close(self) -> None: ...


def test_sealing_holds_a_micro_batch_or_a_window_of_items_and_never_all_of_them(site: MediaSite) -> None:
    site.put_prompts([*TEXTS, *(f"{text}, once more" for text in TEXTS)])
    claim = site.open_claim("run-2")
    site.generate(claim, up_to="image", open_media=lambda *_: LargePictures())
    usual, counted = pa.default_memory_pool(), pa.proxy_memory_pool(pa.default_memory_pool())
    pa.set_memory_pool(counted)
    tracemalloc.start()
    try:
        sealed = site.generate(claim)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
        pa.set_memory_pool(usual)
    assert sealed.sealed
    assert peak + counted.max_memory() < claim.micro_batch_rows * _LARGE_BYTES + 2 * WINDOW_BYTES
    assert 2 * len(TEXTS) * _LARGE_BYTES > 2 * (claim.micro_batch_rows * _LARGE_BYTES + 2 * WINDOW_BYTES)
    making = site.handoffs.open(MEDIA_EXECUTION, site.partition.key).table().to_pylist()
    media = MediaSet.open(site.handoffs.open(IMAGES, site.partition.key))
    seeds = [row["seed"] for row in making if row["role"] == "painter"]
    assert len(media) == len(seeds) == 2 * len(TEXTS)
    assert all(media.read(item) == noise(seed, _LARGE_BYTES) for item, seed in zip(media.ids(), seeds, strict=True))


def made(position: int, content: bytes | None) -> MadeMedium:
    row = Row(row_id=f"row-{position}", prompt_id="p", position=position, prompt="a prompt", seed=position)
    facts = MediaFacts(media_type="image/png", width=3, height=4)
    result = (
        MediaResult.none("error", "no")
        if content is None
        else MediaResult(content=content, facts=facts, finish_reason="stop")
    )
    return MadeMedium(row=row, asked="?", seed=position, result=result, seconds=0.0, num_retries=0, deterministic=True)


# Of each batch, its rows' positions with their bytes; None: nothing was made.
CONTENTS = {
    "scattered": [{7: b"seven" * 999, 0: b"zero", 3: None}, {1: b"", 6: b"six" * 50}, {5: b"5", 2: b"22", 4: b"4" * 9}],
    "nothing was made": [{1: None}, {0: None, 2: None}],
    "only empty bytes": [{1: b"", 0: b""}],
    "no rows": [],
}


def committed(site: MediaSite, batches: Sequence[dict[int, bytes | None]]) -> CommittedMedia:
    claim = site.open_claim()
    rows = [[made(*one) for one in batch.items()] for batch in batches]
    for index, batch in enumerate(rows):
        commit_media(site.objects, claim, "painter", index, batch, host="h", run_id="r")
    read = (
        read_media(site.objects, claim, "painter", index, [one.row for one in batch])
        for index, batch in enumerate(rows)
    )
    return CommittedMedia.of(site.objects, claim, read)


@pytest.mark.parametrize("window_bytes", [1, 10, 1_000_000])
@pytest.mark.parametrize("batches", CONTENTS.values(), ids=CONTENTS.keys())
def test_items_come_in_the_order_of_rows_with_their_own_bytes(
    site: MediaSite, monkeypatch: pytest.MonkeyPatch, batches: list[dict[int, bytes | None]], window_bytes: int
) -> None:
    monkeypatch.setattr(committed_media, "WINDOW_BYTES", window_bytes)
    media = committed(site, batches)
    wanted = sorted((position, body) for batch in batches for position, body in batch.items())
    assert media.execution["row_id"].to_pylist() == [f"row-{position}" for position, _ in wanted]
    items = [(item.item_id, item.content, item.num_bytes) for item in media.items()]
    assert items == [(f"row-{at}/painter", body, len(body)) for at, body in wanted if body is not None]


def test_a_batch_that_changes_after_it_was_compared_is_not_sealed(site: MediaSite) -> None:
    media = committed(site, CONTENTS["scattered"])
    [key, *_] = site.objects.list(site.open_claim().batches_of("painter"))
    path = site.objects.local_path(key)
    whole = path.read_bytes()
    path.chmod(0o600)
    path.write_bytes(whole.replace(b"seven", b"eight"))
    with pytest.raises(
        HandoffCorrupt, match=r"b00000.arrow is damaged: its bytes do not have the digest .* Delete that"
    ):
        list(media.items())
    path.unlink()
    with pytest.raises(HandoffCorrupt, match=r"b00000.arrow is gone, though it was committed"):
        list(media.items())
