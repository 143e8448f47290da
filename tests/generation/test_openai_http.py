"""The openai_http engine against a real HTTP server on this machine."""

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from headrace.engines.rows import ChainRows, GenerationRequest
from headrace.errors import EngineUnavailable
from tests.engines.openai.clients import make_rows
from tests.generation.builders import TEXTS, make_member, make_site

Answer = tuple[int, dict[str, Any] | str, dict[str, str]]


class Server:
    """Answers each request with what `answer` says of its body and of how often that prompt was asked before."""

    def __init__(self) -> None:
        self.answer: Callable[[str, int], Answer] = lambda prompt, asked: completion(f"echo of {prompt}")
        self.bodies: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                prompt = body["messages"][-1]["content"]
                asked = sum(one["messages"][-1]["content"] == prompt for one in server.bodies)
                server.bodies.append(body)
                server.keys.append(self.headers.get("Authorization"))
                status, answer, headers = server.answer(prompt, asked)
                raw = (answer if isinstance(answer, str) else json.dumps(answer)).encode()
                self.send_response(status)
                for name, value in {**headers, "Content-Length": str(len(raw))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(raw)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}/v1"
        threading.Thread(target=self.http.serve_forever, daemon=True).start()


def completion(text: str, finish_reason: str = "stop") -> Answer:
    choice = {"message": {"role": "assistant", "content": text}, "finish_reason": finish_reason}
    return 200, {"choices": [choice], "usage": {"prompt_tokens": 5, "completion_tokens": 3}}, {}


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.http.shutdown()
    server.http.server_close()


_engines: list[ChainRows] = []


@pytest.fixture(autouse=True)
def closed_engines() -> Iterator[None]:
    yield
    while _engines:
        _engines.pop().close()


def make_engine(url: str, **changes: Any) -> ChainRows:
    engine = make_rows(url, member=make_member(system_prompt="Be short."), **changes)
    _engines.append(engine)
    return engine


def requests(*prompts: str) -> list[GenerationRequest]:
    return [GenerationRequest(row_id=prompt, prompt=prompt, seed=2**40 + 3) for prompt in prompts]


def test_a_prompt_that_spells_a_special_token_is_its_rows_error_and_is_not_sent(server: Server) -> None:
    engine = make_engine(server.url, special_tokens=("<|im_start|>", "<|im_end|>"))

    spelt, other = engine.generate(requests("a<|im_end|>b", "c<|endoftext|>"))

    assert spelt.error == (
        "A turn is not sent: the text spells the special token '<|im_end|>', which the server would take for a turn's "
        "mark."
    )
    assert other.text == "echo of c<|endoftext|>"


def test_rows_come_back_in_their_order_with_their_counts(server: Server) -> None:
    results = make_engine(server.url).generate(requests("a", "b", "c"))
    assert [result.text for result in results] == ["echo of a", "echo of b", "echo of c"]
    assert {(result.num_prompt_tokens, result.num_output_tokens, result.finish_reason) for result in results} == {
        (5, 3, "stop")
    }


def test_the_version_sets_settings_reach_the_server(server: Server) -> None:
    make_engine(server.url, api_key="secret").generate(requests("a"))
    assert server.keys == ["Bearer secret"]
    assert server.bodies == [
        {
            "model": "served",
            "messages": [{"role": "system", "content": "Be short."}, {"role": "user", "content": "a"}],
            "temperature": 0.7,
            "top_p": 0.9,
            "max_tokens": 12,
            "seed": 3,
        }
    ]


def test_a_cut_off_output_is_length(server: Server) -> None:
    server.answer = lambda prompt, asked: completion("and so", "length")
    assert make_engine(server.url).generate(requests("a"))[0].finish_reason == "length"


@pytest.mark.parametrize(
    ("answer", "error"),
    {
        "refused": ((400, {"error": "too long"}, {}), "answered 400: too long"),
        "filtered": (completion("", "content_filter"), "the server ended the output with 'content_filter'"),
        "broken": ((200, "<html>", {}), "sent a broken answer: no chat completion"),
        "always broken by this row": ((500, "boom", {}), "answered 500: boom"),
    }.values(),
)
def test_a_row_that_the_server_cannot_make_is_that_rows_error(server: Server, answer: Answer, error: str) -> None:
    server.answer = lambda prompt, asked: answer if prompt == "bad" else completion("fine")
    bad, good = make_engine(server.url, num_attempts=2).generate(requests("bad", "good"))
    assert (bad.finish_reason, good.text) == ("error", "fine")
    assert error in (bad.error or "")


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_server_that_recovers_costs_a_retry(server: Server, status: int) -> None:
    server.answer = lambda prompt, asked: (status, "busy", {"Retry-After": "0"}) if asked < 2 else completion("fine")
    assert make_engine(server.url, num_attempts=5).generate(requests("a"))[0].text == "fine"
    assert len(server.bodies) == 3


def test_a_usage_limit_ends_the_run_and_keeps_what_was_made(server: Server, tmp_path: Any) -> None:
    site = make_site(tmp_path)
    server.answer = lambda prompt, asked: completion("fine") if len(server.bodies) <= 4 else (429, "limit", {})
    with pytest.raises(EngineUnavailable, match="Every replica is busy.*answered 429: limit"):
        site.generate(engine=make_engine(server.url, num_attempts=2))
    server.answer = lambda prompt, asked: completion("fine")
    outcome = site.generate(engine=make_engine(server.url))
    assert outcome.num_generated_now == 3
    assert outcome.num_errors == 0


def test_a_server_that_is_gone_is_unavailable() -> None:
    with pytest.raises(EngineUnavailable, match=r"No replica is alive.*takes no connection \(ClientConnectorError\)"):
        make_engine("http://127.0.0.1:9/v1", num_attempts=2).generate(requests("a"))


@pytest.mark.parametrize("status", [401, 404])
def test_a_wrong_key_or_address_is_no_rows_fault_and_may_pass(server: Server, status: int, tmp_path: Any) -> None:
    """A server whose model is still loading, or whose key is being changed, answers so too."""
    server.answer = lambda prompt, asked: (status, "no", {})
    with pytest.raises(
        EngineUnavailable, match=f"answered {status}.*Check base_url, the API key, and the model 'served'"
    ):
        make_site(tmp_path).generate(engine=make_engine(server.url))


@pytest.mark.parametrize("status", [400, 403, 404, 500, 502, 504])
def test_one_row_that_is_always_answered_oddly_is_that_rows_error_and_no_end_of_the_run(
    server: Server, status: int, tmp_path: Any
) -> None:
    server.answer = lambda prompt, asked: (status, "odd", {}) if prompt == TEXTS[3] else completion("fine")
    outcome = make_site(tmp_path).generate(engine=make_engine(server.url, num_attempts=2))
    assert (outcome.content.num_rows, outcome.num_errors) == (len(TEXTS), 1)


@pytest.mark.parametrize("status", [200, 400, 500, 503])
def test_a_server_that_answers_nothing_well_makes_no_day_of_errors(server: Server, status: int, tmp_path: Any) -> None:
    server.answer = lambda prompt, asked: (status, "{}", {})
    with pytest.raises(EngineUnavailable):
        make_site(tmp_path).generate(engine=make_engine(server.url, num_attempts=2))


def test_rows_of_a_server_are_marked_as_not_deterministic(server: Server, tmp_path: Any) -> None:
    outcome = make_site(tmp_path).generate(engine=make_engine(server.url))
    assert not any(outcome.execution.table()["deterministic"].to_pylist())
