"""The echo engine against the suite that any package's engine is held to."""

import pytest

from headrace.engines.base import Engine
from headrace.engines.conformance import *  # noqa: F403 (so does its reader)
from headrace.engines.conformance import opened


@pytest.fixture(scope="module")
def engine() -> Engine:
    return opened("echo")
