"""What servers of OpenAI's protocol paint and speak, against the suite that any package's engine is held to."""

from collections.abc import Iterator

import pytest

from headrace.engines.media import MediaEngine
from headrace.engines.media_conformance import *  # noqa: F403 (so does its reader)
from headrace.engines.media_conformance import opened, painter, speaker
from headrace.version_sets.sets import Member
from simulation.servers import media
from simulation.servers.chat import served
from simulation.servers.media import making


@pytest.fixture(scope="module", params=[painter, speaker])
def member(request: pytest.FixtureRequest) -> Member:
    return request.param()


@pytest.fixture(scope="module")
def engine(member: Member) -> Iterator[MediaEngine]:
    with served(making(media.vllm_omni if member.picture else media.spoken)) as server:
        yield opened("openai_http", member, base_url=server.url, model="served", request={"seed": "{seed31}"})
