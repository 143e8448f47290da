"""A publisher of media that is killed (-9) at any line of ours has published everything or nothing."""

import subprocess
import sys
from pathlib import Path

import pytest

from headrace.handoff.media.reading import MediaSet
from headrace.handoff.versions import HandoffStore
from headrace.store.local import LocalStore
from tests.handoff.media.builders import make_bodies, make_items, publish
from tests.handoff.media.killed_publisher import NUM_ITEMS

NUM_KILLS = 24


@pytest.mark.process
def test_a_publisher_killed_at_any_line_has_published_all_items_or_none(tmp_path: Path) -> None:
    command = [sys.executable, str(Path(__file__).parent / "killed_publisher.py"), "media", str(tmp_path)]
    ran = subprocess.run([*command, str(NUM_KILLS)], check=True, capture_output=True, text=True)
    bodies, num_published = make_bodies(NUM_ITEMS), 0
    directories = [Path(line) for line in ran.stdout.splitlines()]
    assert len(directories) == NUM_KILLS
    for directory in directories:
        handoffs = HandoffStore(LocalStore(directory))
        handoff = handoffs.newest("pictures", "all")
        if handoff:
            num_published += 1
            assert dict(zip(bodies, MediaSet.open(handoff).read_many(list(bodies)), strict=True)) == bodies
        # Whoever comes next finds the version, or makes it; the dead publisher is in nobody's way.
        again = publish(handoffs, make_items(bodies))
        assert (again.version, again.reused) == (1, handoff is not None)
    assert 0 < num_published < NUM_KILLS
