"""The openai_http engine against a real HTTP server on this machine."""

from collections.abc import Iterator
from typing import Any

import pytest

from headrace.engines.rows import ChainRows, GenerationRequest
from headrace.errors import EngineUnavailable
from simulation.servers.chat import ChatServer, completion, http, served, telling
from tests.engines.openai.clients import make_rows
from tests.generation.builders import TEXTS, make_member, make_site


@pytest.fixture
def server() -> Iterator[ChatServer]:
    """It echoes."""
    with served(telling(lambda prompt, asked: fine(f"echo of {prompt}"))) as server:
        yield server


def fine(text: str = "fine", finish_reason: str = "stop") -> bytes:
    return http(completion(text, finish_reason))


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


def test_a_prompt_that_spells_a_special_token_is_its_rows_error_and_is_not_sent(server: ChatServer) -> None:
    engine = make_engine(server.url, special_tokens=("<|im_start|>", "<|im_end|>"))

    spelt, other = engine.generate(requests("a<|im_end|>b", "c<|endoftext|>"))

    assert spelt.error == (
        "A turn is not sent: the text spells the special token '<|im_end|>', which the server would take for a turn's "
        "mark."
    )
    assert other.text == "echo of c<|endoftext|>"


def test_rows_come_back_in_their_order_with_their_counts(server: ChatServer) -> None:
    results = make_engine(server.url).generate(requests("a", "b", "c"))
    assert [result.text for result in results] == ["echo of a", "echo of b", "echo of c"]
    assert {(result.num_prompt_tokens, result.num_output_tokens, result.finish_reason) for result in results} == {
        (5, 3, "stop")
    }


def test_the_version_sets_settings_reach_the_server(server: ChatServer) -> None:
    make_engine(server.url, api_key="secret").generate(requests("a"))
    assert [headers["Authorization"] for headers in server.headers] == ["Bearer secret"]
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


def test_a_cut_off_output_is_length(server: ChatServer) -> None:
    server.behave = telling(lambda prompt, asked: fine("and so", "length"), is_alive=False)
    assert make_engine(server.url).generate(requests("a"))[0].finish_reason == "length"


@pytest.mark.parametrize(
    ("answer", "error"),
    {
        "refused": (http({"error": "too long"}, 400), "answered 400: too long"),
        "filtered": (fine("", "content_filter"), "the server ended the output with 'content_filter'"),
        "broken": (http(b"<html>"), "sent a broken answer: no chat completion"),
        "always broken by this row": (http(b"boom", 500), "answered 500: boom"),
    }.values(),
)
def test_a_row_that_the_server_cannot_make_is_that_rows_error(server: ChatServer, answer: bytes, error: str) -> None:
    server.behave = telling(lambda prompt, asked: answer if prompt == "bad" else fine(), is_alive=False)
    bad, good = make_engine(server.url, num_attempts=2).generate(requests("bad", "good"))
    assert (bad.finish_reason, good.text) == ("error", "fine")
    assert error in (bad.error or "")


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_server_that_recovers_costs_a_retry(server: ChatServer, status: int) -> None:
    server.behave = telling(
        lambda prompt, asked: http(b"busy", status, Retry_After="0") if asked < 2 else fine(), is_alive=False
    )
    assert make_engine(server.url, num_attempts=5).generate(requests("a"))[0].text == "fine"
    assert len(server.bodies) == 3


def test_a_usage_limit_ends_the_run_and_keeps_what_was_made(server: ChatServer, tmp_path: Any) -> None:
    site = make_site(tmp_path)
    server.behave = telling(
        lambda prompt, asked: fine() if len(server.bodies) <= 4 else http(b"limit", 429), is_alive=False
    )
    with pytest.raises(EngineUnavailable, match="Every server is busy.*answered 429: limit"):
        site.generate(engine=make_engine(server.url, num_attempts=2))
    server.behave = telling(lambda prompt, asked: fine(), is_alive=False)
    outcome = site.generate(engine=make_engine(server.url))
    assert outcome.num_generated_now == 3
    assert outcome.num_errors == 0


def test_a_server_that_is_gone_is_unavailable() -> None:
    with pytest.raises(EngineUnavailable, match=r"No server answers.*takes no connection \(ClientConnectorError\)"):
        make_engine("http://127.0.0.1:9/v1", num_attempts=2).generate(requests("a"))


@pytest.mark.parametrize("status", [401, 404])
def test_a_wrong_key_or_address_is_no_rows_fault_and_may_pass(server: ChatServer, status: int, tmp_path: Any) -> None:
    """A server whose model is still loading, or whose key is being changed, answers so too."""
    server.behave = telling(lambda prompt, asked: http(b"no", status), is_alive=False)
    with pytest.raises(
        EngineUnavailable, match=f"answered {status}.*Check base_url, the API key, and the model 'served'"
    ):
        make_site(tmp_path).generate(engine=make_engine(server.url))


@pytest.mark.parametrize("status", [400, 403, 404, 500, 502, 504])
def test_one_row_that_is_always_answered_oddly_is_that_rows_error_and_no_end_of_the_run(
    server: ChatServer, status: int, tmp_path: Any
) -> None:
    server.behave = telling(
        lambda prompt, asked: http(b"odd", status) if prompt == TEXTS[3] else fine(), is_alive=False
    )
    outcome = make_site(tmp_path).generate(engine=make_engine(server.url, num_attempts=2))
    assert (outcome.content.num_rows, outcome.num_errors) == (len(TEXTS), 1)


@pytest.mark.parametrize("status", [200, 400, 500, 503])
def test_a_server_that_answers_nothing_well_makes_no_day_of_errors(
    server: ChatServer, status: int, tmp_path: Any
) -> None:
    server.behave = telling(lambda prompt, asked: http(b"{}", status), is_alive=False)
    with pytest.raises(EngineUnavailable):
        make_site(tmp_path).generate(engine=make_engine(server.url, num_attempts=2))


def test_rows_of_a_server_are_marked_as_not_deterministic(server: ChatServer, tmp_path: Any) -> None:
    outcome = make_site(tmp_path).generate(engine=make_engine(server.url))
    assert not any(outcome.execution.table()["deterministic"].to_pylist())
