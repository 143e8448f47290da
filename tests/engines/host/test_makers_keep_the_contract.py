"""Models that paint or speak, held by a host, against the suite that any package's engine is held to."""

from collections.abc import Callable
from dataclasses import replace
from importlib import metadata

import pytest

from headrace.engines.media import MediaEngine
from headrace.engines.media_conformance import *  # noqa: F403 (so does its reader)
from headrace.engines.media_conformance import opened, painter, speaker
from headrace.store.local import LocalStore
from headrace.store.sealed_directory import seal_directory
from headrace.version_sets.sets import Member
from tests.engines.host.hosts import RunningHost

pytestmark = pytest.mark.process


@pytest.fixture(scope="module", params=["echo paints", "echo speaks", "diffusers", "hibari"])
def opening(
    request: pytest.FixtureRequest, host: RunningHost, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Member, Callable[[Member], MediaEngine]]:
    objects = LocalStore(tmp_path_factory.mktemp("weights"))
    deployment = host.deployment(objects)
    match request.param:
        case "diffusers":
            sealed = seal_directory(objects, request.getfixturevalue("pixel_pipeline"))
            asked = painter(width=16, height=16, num_inference_steps=2, guidance_scale=3)
            member = replace(asked, weights_digest=sealed.digest, weights_uri=sealed.uri)
            options = {"dtype": "float32", "batch_rows": 4}
        case "hibari":
            member = replace(speaker(), model_name="hibari", model_version=metadata.version("hibari-tts"))
            options = {}
        case what:
            member, options = painter() if what == "echo paints" else speaker(), {}
    name = request.param.split()[0]
    return member, lambda one: opened(name, one, objects=objects, deployment=deployment, **options)


@pytest.fixture(scope="module")
def member(opening: tuple[Member, Callable[[Member], MediaEngine]]) -> Member:
    return opening[0]


@pytest.fixture(scope="module")
def engine(opening: tuple[Member, Callable[[Member], MediaEngine]]) -> MediaEngine:
    return opening[1](opening[0])
