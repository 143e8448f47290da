"""The engine for servers against the suite that any package's engine is held to; the server is a gateway of ours."""

from collections.abc import Iterator

import pytest

from headrace.engines.base import Engine
from headrace.engines.conformance import *  # noqa: F403 (so does its reader)
from headrace.engines.conformance import opened
from headrace.engines.deployment import Deployment
from simulation.servers.gateway_site import KEY, Site

pytestmark = pytest.mark.process


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    site = Site.make(tmp_path_factory.mktemp("gateway") / "site", {})
    try:
        site.initialize()
        yield opened(
            "openai_http",
            deployment=Deployment(api_key=KEY),
            base_url=f"{site.start().url}/v1",
            model=site.service.name,
        )
    finally:
        site.close()
