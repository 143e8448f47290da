"""The transformers engine against the suite that any package's engine is held to, on a real model of 1M parameters."""

from dataclasses import replace
from pathlib import Path

import pytest

from headrace.engines.base import Engine
from headrace.engines.conformance import *  # noqa: F403 (so does its reader)
from headrace.engines.conformance import opened
from headrace.store.local import LocalStore
from headrace.store.sealed_directory import seal_directory
from tests.generation.builders import make_member


@pytest.fixture(scope="module")
def engine(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Engine:
    objects = LocalStore(tmp_path_factory.mktemp("weights"))
    sealed = seal_directory(objects, tiny_model)
    member = replace(make_member(), weights_digest=sealed.digest, weights_uri=sealed.uri)
    return opened("transformers", objects=objects, member=member, dtype="float32")
