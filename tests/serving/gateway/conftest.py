"""Gateways that run, on stores of their own."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from simulation.servers.gateway_site import KEY, GatewayProcess, Site


@pytest.fixture
def make_site(tmp_path: Path) -> Iterator[Callable[..., Site]]:
    """Sites whose gateways end with the test."""
    made: list[Site] = []

    def make(**service: Any) -> Site:
        made.append(Site.make(tmp_path / f"site-{len(made)}", service))
        return made[-1]

    yield make
    for site in made:
        site.close()


@pytest.fixture(scope="module")
def echo_site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A site with its first set and one gateway, for tests that leave both as they are."""
    site = Site.make(tmp_path_factory.mktemp("gateway") / "site", {"limits": {"request_bytes_max": 20_000}})
    site.initialize()
    with site.started():
        yield site


@pytest.fixture
def client_of() -> Iterator[Callable[..., openai.OpenAI]]:
    """OpenAI's own client, without the retries that would hide an error."""
    made: list[openai.OpenAI] = []

    def make(gateway: GatewayProcess, *, key: str = KEY, **headers: str) -> openai.OpenAI:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        client = openai.OpenAI(base_url=f"{gateway.url}/v1", api_key=key, max_retries=0, default_headers=named)
        made.append(client)
        return client

    yield make
    for client in made:
        client.close()
