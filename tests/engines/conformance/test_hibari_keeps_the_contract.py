"""The voice hibari against the suite that any package's engine is held to."""

from dataclasses import replace
from importlib import metadata

import pytest

from headrace.engines.media import MediaEngine
from headrace.engines.media_conformance import *  # noqa: F403 (so does its reader)
from headrace.engines.media_conformance import opened, speaker
from headrace.version_sets.sets import Member


@pytest.fixture(scope="module")
def member() -> Member:
    return replace(speaker(), model_name="hibari", model_version=metadata.version("hibari-tts"))


@pytest.fixture(scope="module")
def engine(member: Member) -> MediaEngine:
    return opened("hibari", member)
