"""Odd answers of a server behind a gateway, all the way: what the client, the log and the figures get of them."""

import json
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import openai
import pytest

from simulation.servers.chat import completion, events, http, served, telling
from simulation.servers.gateway_site import KEY, Site, http_role

pytestmark = pytest.mark.process

ENGINE_KEY = "sk-planted-0123456789"
ODD: dict[str, bytes] = {
    "a count of minus five": http(completion("fine", usage={"prompt_tokens": 5, "completion_tokens": -5})),
    "no number": http(json.dumps(completion("fine", usage={"prompt_tokens": float("nan")})).encode()),
    "infinite": http(
        b'{"usage": {"completion_tokens": 1e400}, ' + json.dumps(completion("fine", usage=None))[1:].encode()
    ),
    "a text for a count": http(completion("fine", usage={"prompt_tokens": "x", "completion_tokens": "y"})),
    "the key in an answer": http(completion(f"my key is {ENGINE_KEY}", model=ENGINE_KEY)),
    "the key in a refusal": http({"error": {"message": ENGINE_KEY}}, 400),
    "the key in a failure": http({"error": {"message": ENGINE_KEY}}, 500, reason=ENGINE_KEY, X_Echo=ENGINE_KEY),
    "the key in a body of 200": http({"error": {"message": ENGINE_KEY, "code": 500}}),
    "the key in events": http(events(*f"it is {ENGINE_KEY}", {"choices": [{"delta": {}, "finish_reason": "stop"}]})),
    "half a character": http(completion("ab\ud83d")),
    "a list of parts": http(completion([{"type": "text", "text": "fine"}])),
}


def test_no_odd_answer_loses_a_record_spoils_a_figure_or_shows_the_key(
    make_site: Callable[..., Site], client_of: Callable[..., openai.OpenAI], tmp_path: Path
) -> None:
    def answer(prompt: str, asked: int) -> bytes:
        return ODD.get(prompt, http(completion("fine")))

    with served(telling(answer)) as server:
        site = make_site(
            roles={"writer": http_role(server.url)},
            limits={"num_attempts": 1},
            prices={"tiny": {"prompt": 1, "output": 2}},
        )
        site.initialize()
        gateway = site.start("--engine-key", ENGINE_KEY, "--log-content")
        client = client_of(gateway)
        shown: list[str] = []
        for prompt in ODD:
            messages: Any = [{"role": "user", "content": prompt}]
            for stream in (False, True):
                try:
                    if stream:
                        options: Any = {"stream": True, "stream_options": {"include_usage": True}}
                        pieces = client.chat.completions.create(model="assistant", messages=messages, **options)
                        shown.append("".join(piece.model_dump_json() for piece in pieces))
                    else:
                        whole = client.chat.completions.create(model="assistant", messages=messages)
                        shown.append(whole.model_dump_json())
                except openai.APIError as error:
                    shown.append(f"{error} {error.body}")
        request = urllib.request.Request(f"{gateway.url}/metrics", headers={"Authorization": f"Bearer {KEY}"})
        with urllib.request.urlopen(request, timeout=60) as response:
            figures = response.read().decode()
        gateway.terminate()
        assert f"Bearer {ENGINE_KEY}" in str([dict(headers) for headers in server.headers])
    units = gateway.records("unit")
    assert len(units) == 2 * len(ODD)
    log = gateway.log.read_text() + gateway.log.with_suffix(".errors").read_text()
    assert ENGINE_KEY not in "\n".join([*shown, figures, log])
    assert "NaN" not in "\n".join([*shown, figures, log])
    assert next(line for line in figures.splitlines() if "output_tokens_total{" in line).endswith(".0")
    # What nobody counted is null: in the record, and in the usage that the client gets.
    assert {(unit["prompt_tokens"], unit["output_tokens"]) for unit in units[:2]} == {(5, None)}
    assert json.loads(shown[0])["usage"] is None
