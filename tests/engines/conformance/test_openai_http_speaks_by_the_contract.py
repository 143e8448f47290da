"""What servers of OpenAI's protocol speak, against the suite that any package's engine is held to."""

from collections.abc import Iterator

import pytest

from headrace.engines.media import MediaEngine
from headrace.engines.media_conformance import *  # noqa: F403 (so does its reader)
from headrace.engines.media_conformance import opened, speaker
from headrace.version_sets.sets import Member
from simulation.servers import media
from simulation.servers.chat import served
from simulation.servers.media import making


@pytest.fixture(scope="module")
def member() -> Member:
    return speaker()


@pytest.fixture(scope="module")
def engine(member: Member) -> Iterator[MediaEngine]:
    with served(making(media.spoken)) as server:
        yield opened("openai_http", member, base_url=server.url, model="served", request={"seed": "{seed31}"})
