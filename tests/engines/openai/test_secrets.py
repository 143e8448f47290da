"""A key is planted wherever a server could repeat it, then looked for in everything that leaves an engine."""

import asyncio
import base64
import json
import logging
import traceback
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

import dagster as dg
import pytest
from dagster._utils.error import serializable_error_info_from_exc_info

from headrace.engines.deployment import Deployment
from headrace.engines.dispatch.settings import DispatchSettings
from headrace.engines.openai.client import OpenAIEngine
from headrace.errors import HeadraceError
from headrace.serving.gateway.refusals import refusal_of
from simulation.servers.chat import completion, events, http, served, telling
from tests.engines.openai.clients import by_bulk, by_live, make_rows
from tests.generation.builders import make_site
from tests.serving.engines.turns import make_turn

KEY = 'sk-planted-0123456789"/+abcdef'
SPELLINGS = [KEY, quote(KEY, safe=""), json.dumps(KEY)[1:-1], base64.b64encode(KEY.encode()).decode().rstrip("=")]
END = {"choices": [{"delta": {}, "finish_reason": "stop"}]}


def pieces(text: str) -> bytes:
    return http(events(*text, END), kind="text/event-stream")


PLANTED: dict[str, bytes] = {
    "an answer": http(completion(f"the key is {KEY}, so")),
    "a stream, a character an event": pieces(f"the key is {KEY}, so"),
    "a stream that ends with it": pieces(f"the key is {KEY}"),
    "a refusal": http({"error": {"message": f"no model for {KEY}"}}, 400),
    "a refusal of plain text": http(f"no model for {KEY}".encode(), 400),
    "a refusal that would be cut inside it": http({"error": {"message": "x" * 190 + KEY}}, 400),
    "a refusal of two lines": http({"error": {"message": f"no\n  model\n for {KEY}"}}, 422),
    "a wrong key": http({"error": f"Incorrect API key: {KEY}"}, 401),
    "a failure": http(f"Authorization: Bearer {KEY}".encode(), 500),
    "a failure in an address": http(f"GET /?key={quote(KEY, safe='')}".encode(), 500),
    "a failure in Base64": http(base64.b64encode(KEY.encode()), 500),
    "a failure in JSON": http(json.dumps({"detail": {"headers": {"authorization": KEY}}}).encode(), 500),
    "an error in a body of 200": http({"error": {"message": KEY, "code": KEY}}),
    "an error in an event": http(events("ab", {"error": {"message": KEY}}), kind="text/event-stream"),
    "what is no answer": http(f"<html>{KEY}</html>".encode()),
    "what is no answer and cut inside it": http(b" " * 30 + b"x" * 190 + KEY.encode()),
    "a header": http({"error": "no"}, 400, X_Echo=KEY),
    "a header that is none": f"HTTP/1.1 200 OK\r\n{KEY}\r\n\r\n".encode(),
    "a status line": http({"error": "no"}, 500, reason=f"Bad {KEY}"),
    "a status line that is none": f"HTTP/1.1 {KEY} OK\r\n\r\n".encode(),
    "a redirect": http(b"", 302, Location=f"http://127.0.0.1:9/{KEY}"),
    "a wish to wait": http(b"", 429, Retry_After=KEY),
    "a content encoding": http(b"ab", Content_Encoding=KEY),
    "a content type": http(b"ab", kind=KEY),
    "a finish reason": http(completion("ab", KEY)),
    "a kind of part": http(completion([{"type": KEY}])),
    "counts": http(completion("ab", usage={"prompt_tokens": KEY, "completion_tokens": {KEY: 1}})),
    "a model's name": http(completion("ab", model=KEY, id=KEY, system_fingerprint=KEY)),
}


@pytest.fixture
def logged(caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]) -> Callable[[], str]:
    """What was logged or printed; stamina's own lines are printed."""
    caplog.set_level(logging.DEBUG)
    return lambda: "\n".join([caplog.text, *capsys.readouterr()])


def told_by(error: BaseException) -> str:
    """All that anybody sees of an error: its text, the traceback with what is chained, Dagster's own record."""
    assert error.__traceback__ is not None
    record = serializable_error_info_from_exc_info((type(error), error, error.__traceback__))
    said = [record, record.cause, record.context]
    return "\n".join([repr(error), *traceback.format_exception(error), *map(str, said)])


def assert_clean(text: str) -> None:
    assert not [spelling for spelling in SPELLINGS if spelling in text], text


@pytest.mark.parametrize("name", PLANTED)
def test_no_secret_comes_out_of_bulk(name: str, tmp_path: Path, logged: Callable[[], str]) -> None:
    told: list[str] = []
    with served(telling(lambda prompt, asked: PLANTED[name])) as server:
        site = make_site(tmp_path)
        site.put_prompts(["one prompt"])
        engine = make_rows(server.url, api_key=KEY, num_attempts=1)
        try:
            outcome = site.generate(engine=engine)
            dg.MaterializeResult(metadata=dict(outcome.figures()))
            told += [str(outcome.figures()), str(outcome.content.table().to_pylist())]
            told += [str(outcome.execution.table().to_pylist())]
        except HeadraceError as error:
            told.append(told_by(error))
        assert f"Bearer {KEY}" in str([dict(headers) for headers in server.headers])
    # Nor does it lie in the store.
    told += [path.read_bytes().decode(errors="replace") for path in tmp_path.rglob("*") if path.is_file()]
    assert_clean("\n".join([*told, logged()]))


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("name", PLANTED)
def test_no_secret_comes_out_of_live(name: str, stream: bool, logged: Callable[[], str]) -> None:
    async def ask(url: str) -> list[str]:
        engine = OpenAIEngine(
            model="served",
            base_urls=[url],
            deployment=Deployment(
                api_key=KEY,
                turn_seconds_max=60.0,
                dispatch=DispatchSettings(num_attempts=1, dead_seconds_max=0.2, busy_seconds_max=0.2),
            ),
        )
        given_out: list[str] = []
        try:
            if stream:
                async for piece in engine.stream(make_turn()):
                    given_out.append(piece.text)  # noqa: PERF401 (what came before an error)
            else:
                given_out.append(str(await engine.answer(make_turn())))
        except HeadraceError as error:
            given_out += [told_by(error), refusal_of(error).body.decode()]
        finally:
            await engine.close()
        return ["".join(given_out), *(f"{one.name} {one.health.why}" for one in engine.dispatcher.replicas)]

    with served(telling(lambda prompt, asked: PLANTED[name])) as server:
        assert_clean("\n".join([*asyncio.run(ask(server.url)), logged()]))


def test_text_beside_a_secret_is_kept() -> None:
    async def ask(url: str) -> str:
        engine = OpenAIEngine(model="served", base_urls=[url], deployment=Deployment(api_key=KEY))
        try:
            return "".join([piece.text async for piece in engine.stream(make_turn())])
        finally:
            await engine.close()

    with served(telling(lambda prompt, asked: pieces(f"sk-planted is no key, {KEY} is, sk-pl"))) as server:
        assert asyncio.run(ask(server.url)) == "sk-planted is no key, *** is, sk-pl"


def test_a_short_key_that_may_be_a_word_stays_in_what_a_model_wrote() -> None:
    async def ask(url: str) -> str:
        engine = OpenAIEngine(model="served", base_urls=[url], deployment=Deployment(api_key="EMPTY"))
        try:
            return (await engine.answer(make_turn())).text
        finally:
            await engine.close()

    with served(telling(lambda prompt, asked: http(completion("an EMPTY mill")))) as server:
        assert asyncio.run(ask(server.url)) == "an EMPTY mill"


@pytest.mark.parametrize("engine", ["bulk", "live"])
def test_a_password_in_an_address_is_sent_and_never_told(engine: str, logged: Callable[[], str]) -> None:
    password = "p-very-private-word"
    basic = base64.b64encode(f"reader:{password}".encode()).decode()
    with served(telling(lambda prompt, asked: http(f"{password} {basic}".encode(), 500))) as server:
        url = server.url.replace("http://", f"http://reader:{password}@")
        got = by_bulk(url, api_key=None) if engine == "bulk" else by_live(url, stream=False, api_key=None)
        assert f"Basic {basic}" in str([dict(headers) for headers in server.headers])
    told = f"{got} {logged()}"
    assert password not in told
    assert basic not in told
