"""What the echo engine says, against the suite that any package's engine is held to."""

import pytest

from headrace.engines.media import MediaEngine
from headrace.engines.media_conformance import *  # noqa: F403 (so does its reader)
from headrace.engines.media_conformance import opened, speaker
from headrace.version_sets.sets import Member


@pytest.fixture(scope="module")
def member() -> Member:
    return speaker()


@pytest.fixture(scope="module")
def engine(member: Member) -> MediaEngine:
    return opened("echo", member)
