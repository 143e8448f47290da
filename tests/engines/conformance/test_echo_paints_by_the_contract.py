"""What the echo engine paints, against the suite that any package's engine is held to."""

import pytest

from headrace.engines.media import MediaEngine
from headrace.engines.media_conformance import *  # noqa: F403 (so does its reader)
from headrace.engines.media_conformance import opened, painter
from headrace.version_sets.sets import Member


@pytest.fixture(scope="module")
def member() -> Member:
    return painter()


@pytest.fixture(scope="module")
def engine(member: Member) -> MediaEngine:
    return opened("echo", member)
