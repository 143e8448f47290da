"""Models that write, held by a host, against the suite that any package's engine is held to."""

from dataclasses import replace

import pytest

from headrace.engines.base import Engine
from headrace.engines.conformance import *  # noqa: F403 (so does its reader)
from headrace.engines.conformance import opened
from headrace.store.local import LocalStore
from headrace.store.sealed_directory import seal_directory
from tests.engines.host.hosts import RunningHost
from tests.generation.builders import make_member

pytestmark = pytest.mark.process


@pytest.fixture(scope="module", params=["echo", "transformers"])
def engine(request: pytest.FixtureRequest, host: RunningHost, tmp_path_factory: pytest.TempPathFactory) -> Engine:
    objects = LocalStore(tmp_path_factory.mktemp("weights"))
    if request.param == "echo":
        return opened("echo", objects=objects, deployment=host.deployment(objects))
    sealed = seal_directory(objects, request.getfixturevalue("tiny_model"))
    member = replace(make_member(), weights_digest=sealed.digest, weights_uri=sealed.uri)
    return opened("transformers", objects=objects, member=member, deployment=host.deployment(objects), dtype="float32")
