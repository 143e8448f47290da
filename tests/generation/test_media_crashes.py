"""kill -9 at any line of a run that writes, paints and speaks: nothing lost, nothing doubled, the same bytes."""

import subprocess
import sys
from pathlib import Path

import pytest

from headrace.generation.claim_pins import read_claim_pins
from headrace.generation.claims import unsettled
from headrace.generation.micro_batches import committed
from headrace.generation.sealed_tables import EXECUTION, IMAGES, MEDIA_EXECUTION, SPEECH
from headrace.handoff.media.reading import MediaSet
from headrace.handoff.row_tables import CONTENT
from tests.generation.builders import TEXTS
from tests.generation.killed_worker import media_site
from tests.generation.media_builders import MediaSite

pytestmark = pytest.mark.process

KILLED_WORKER = Path(__file__).parent / "killed_worker.py"
NUM_KILLS = 20
STEPS = ("", "painter", "speaker")
BATCH_ROWS = 2


def parts_of(site: MediaSite) -> dict[str, object]:
    """What readers have of the partition."""
    key = site.partition.key
    media = {asset: MediaSet.open(site.handoffs.open(asset, key)) for asset in (IMAGES, SPEECH)}
    bytes_of = {
        asset: dict(zip(one.ids(), one.read_many(list(one.ids())), strict=True)) for asset, one in media.items()
    }
    return {CONTENT: site.handoffs.open(CONTENT, key).content_digest, **bytes_of}


def test_a_worker_killed_in_any_step_loses_and_doubles_no_part_of_a_row(tmp_path: Path) -> None:
    killed = [sys.executable, str(KILLED_WORKER), str(tmp_path), str(NUM_KILLS), "media"]
    directories = subprocess.run(killed, check=True, capture_output=True, text=True).stdout.split()
    whole, died_in = parts_of(media_site(tmp_path / "whole")), set()
    for directory in directories:
        site = media_site(Path(directory))
        under_way = unsettled(site.objects, "glossary")
        is_settled = any(one.is_sealed for one in read_claim_pins(site.objects).settled)
        num_left = [len(committed(site.objects, under_way[0], role)) if under_way else 4 * is_settled for role in STEPS]
        died_in.add(sum(num > 0 for num in num_left))
        # Before the last part is published, no reader has any.
        if not is_settled:
            assert site.handoffs.assets() == ["prompts"]
        outcome = site.generate(site.open_claim("run-killed"))
        assert outcome.num_generated_now >= (len(STEPS) * len(TEXTS)) - BATCH_ROWS * sum(num_left)
        assert outcome.num_generated_now <= BATCH_ROWS * (len(STEPS) * 4 - sum(num_left))
        assert parts_of(site) == whole
        for asset in (CONTENT, EXECUTION, IMAGES, SPEECH, MEDIA_EXECUTION):
            assert site.handoffs.versions(asset, site.partition.key) == [1]
    assert died_in == {0, 1, 2, 3}
