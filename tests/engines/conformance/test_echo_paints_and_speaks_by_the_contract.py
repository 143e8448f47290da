"""What the echo engine paints and says, against the suite that any package's engine is held to."""

import pytest

from headrace.engines.media import MediaEngine
from headrace.engines.media_conformance import *  # noqa: F403 (so does its reader)
from headrace.engines.media_conformance import opened, painter, speaker
from headrace.version_sets.sets import Member


@pytest.fixture(scope="module", params=[painter, speaker])
def member(request: pytest.FixtureRequest) -> Member:
    return request.param()


@pytest.fixture(scope="module")
def engine(member: Member) -> MediaEngine:
    return opened("echo", member)
