"""`python tests/handoff/media/killed_publisher.py media DIRECTORY NUM_KILLS`: see tests/store/killed_writer.py."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[3]))

from headrace.handoff.versions import HandoffStore
from headrace.store.local import LocalStore
from tests.handoff.media.builders import make_bodies, make_items, publish
from tests.store import killed_writer

NUM_ITEMS = 12


def publish_items(directory: Path) -> None:
    publish(HandoffStore(LocalStore(directory)), make_items(make_bodies(NUM_ITEMS)), shard_bytes=3000)


if __name__ == "__main__":
    killed_writer.WORKS["media"] = publish_items
    killed_writer.main()
