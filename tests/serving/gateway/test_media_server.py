"""A gateway whose painter is a server: what becomes of its file types, refusals, harm and slowness, seen by clients."""

import base64
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import openai
import pytest

from simulation.servers.chat import ChatServer, http, served
from simulation.servers.gateway_site import KEY, GatewayProcess, Site, role
from simulation.servers.media import base64_of, making, picture, png_bomb, refusal, sglang
from tests.waiting import eventually

pytestmark = pytest.mark.process

Clients = Callable[..., openai.OpenAI]
UNIT_SECONDS_MAX = 3.0


@pytest.fixture(scope="module")
def server() -> Iterator[ChatServer]:
    with served(making(sglang)) as running:
        yield running


@pytest.fixture(scope="module")
def site(server: ChatServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    painter = role(
        model="brush",
        picture={"width": 32, "height": 24},
        engine={"name": "openai_http", "base_url": server.url, "model": "brush", "request": {"seed": "{seed31}"}},
    )
    del painter["decoding"]
    limits = {"unit_seconds_max": UNIT_SECONDS_MAX, "num_attempts": 1}
    service = {"roles": {"painter": painter}, "chain": ["painter"], "limits": limits}
    made = Site.make(tmp_path_factory.mktemp("server") / "site", service)
    made.initialize()
    with made.started():
        yield made


@pytest.fixture(autouse=True)
def well_again(server: ChatServer) -> Iterator[None]:
    yield
    server.behave = making(sglang)


def unit(gateway: GatewayProcess, request: str) -> dict[str, Any]:
    return eventually(
        lambda: next((one for one in gateway.records("unit") if one["request"] == request), None), "a record"
    )


def paint(client: openai.OpenAI, **wish: Any) -> Any:
    wanted: dict[str, Any] = {"model": "assistant", "prompt": "a mill"} | wish
    return client.images.generate(**wanted)


def test_a_picture_is_named_by_its_bytes_and_comes_as_the_server_made_it(
    site: Site, server: ChatServer, client_of: Clients
) -> None:
    client = client_of(site.gateways[0])
    answer = paint(client, output_format="jpeg", extra_body={"seed": 11})
    assert answer.output_format == "jpeg"
    assert base64.b64decode(answer.data[0].b64_json) == picture(server.bodies[-1], "JPEG")
    assert (server.bodies[-1]["seed"], server.bodies[-1]["prompt"]) == (11, "a mill")
    with pytest.raises(openai.BadRequestError, match="output_format must be jpeg, what the painter .* makes, got png"):
        paint(client, output_format="png")


HARM: dict[str, tuple[bytes, type[openai.APIStatusError], str | None]] = {
    "a refusal by its rules": (
        refusal("Your prompt shows swordfish.", code="content_policy_violation"),
        openai.BadRequestError,
        "content_policy_violation",
    ),
    "a refusal of the turn": (refusal("swordfish is too long"), openai.BadRequestError, "turn_refused"),
    "no picture": (http({"data": [{"b64_json": base64_of(b"<html>swordfish")}]}), openai.InternalServerError, None),
    "no Base64": (http({"data": [{"b64_json": "%%%"}]}), openai.InternalServerError, None),
    "nothing": (http({"data": []}), openai.InternalServerError, None),
    "another size": (http({"data": [{"b64_json": base64_of(png_bomb(9000, 9000))}]}), openai.InternalServerError, None),
    "its own error": (http({"error": {"message": "swordfish"}}, 500), openai.InternalServerError, None),
}


@pytest.mark.parametrize("case", HARM)
def test_a_servers_harm_is_an_error_that_users_know_and_quotes_nothing(
    site: Site, server: ChatServer, client_of: Clients, case: str
) -> None:
    answer, error, code = HARM[case]
    server.behave = making(lambda *_: answer)
    with pytest.raises(error) as raised:
        paint(client_of(site.gateways[0]))
    assert raised.value.code == (code or "engine_failed")
    assert "swordfish" not in str(raised.value)
    assert raised.value.response.headers["x-headrace-version-set"] == site.version_set().id


def test_another_file_type_than_the_set_made_when_it_was_tried_is_the_painters_failure(
    site: Site, server: ChatServer, client_of: Clients
) -> None:
    server.behave = making(lambda _, body: http({"data": [{"b64_json": base64_of(picture(body, "PNG"))}]}))
    client = client_of(site.gateways[0])
    with pytest.raises(openai.InternalServerError):
        paint(client, output_format="jpeg")
    assert paint(client).output_format == "png"


def test_a_client_who_leaves_ends_the_work_at_the_server(site: Site, server: ChatServer) -> None:
    [gateway] = site.gateways
    server.behave = making(sglang, seconds=60.0)
    before = server.num_gone
    asked = {"model": "assistant", "prompt": "a mill"}
    headers = {"Authorization": f"Bearer {KEY}", "X-Request-Id": "leaves"}
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{gateway.url}/v1/images/generations", json=asked, headers=headers, timeout=0.3)
    eventually(lambda: server.num_gone > before, "the server sees that its client left")
    assert (unit(gateway, "leaves")["status"], unit(gateway, "leaves")["error"]) == (499, "client gone")
    assert [step["error"] for step in gateway.records("step") if step["request"] == "leaves"] == ["cancelled"]


def test_a_picture_that_takes_too_long_is_given_up(site: Site, server: ChatServer, client_of: Clients) -> None:
    server.behave = making(sglang, seconds=60.0)
    with pytest.raises(openai.InternalServerError) as raised:
        paint(client_of(site.gateways[0]))
    assert raised.value.status_code == 504
