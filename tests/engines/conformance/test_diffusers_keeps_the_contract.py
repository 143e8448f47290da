"""The diffusers engine against the suite that any package's engine is held to: in pixels, and with a VAE."""

from dataclasses import replace

import pytest

from headrace.engines.media import MediaEngine
from headrace.engines.media_conformance import *  # noqa: F403 (so does its reader)
from headrace.engines.media_conformance import opened, painter
from headrace.store.local import LocalStore
from headrace.store.sealed_directory import seal_directory
from headrace.version_sets.sets import Member

_STORE = "weights"


@pytest.fixture(scope="module", params=["pixel", "latent"])
def objects_and_member(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[LocalStore, Member]:
    objects = LocalStore(tmp_path_factory.mktemp(_STORE))
    sealed = seal_directory(objects, request.getfixturevalue(f"{request.param}_pipeline"))
    asked = painter(width=16, height=16, num_inference_steps=2, guidance_scale=3, negative_prompt="water")
    return objects, replace(asked, weights_digest=sealed.digest, weights_uri=sealed.uri)


@pytest.fixture(scope="module")
def member(objects_and_member: tuple[LocalStore, Member]) -> Member:
    return objects_and_member[1]


@pytest.fixture(scope="module")
def engine(objects_and_member: tuple[LocalStore, Member]) -> MediaEngine:
    objects, member = objects_and_member
    return opened("diffusers", member, objects=objects, dtype="float32", batch_rows=4)
