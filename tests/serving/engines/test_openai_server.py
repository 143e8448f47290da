"""The openai_http engine for live turns, against real HTTP servers on this machine."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from headrace.engines.base import Answer, EngineBusy, EngineFailed, Piece, Turn, TurnRefused
from headrace.engines.deployment import Deployment
from headrace.engines.dispatch.settings import DispatchSettings
from headrace.engines.openai.client import OpenAIEngine
from headrace.engines.openai.coming import come_seconds_in
from headrace.errors import InvalidInput
from simulation.servers.chat import (
    DONE,
    USAGE,
    Behaviour,
    ChatServer,
    answering,
    breaking,
    event,
    hanging,
    in_turn,
    refusing,
    serving,
    streaming,
)
from tests.serving.engines.turns import make_turn

KEY = "sk-very-secret"
# Stalls are found in tenths of a second, and a replica that was never heard is not waited for.
QUICK = DispatchSettings(silent_seconds_min=0.1, silent_seconds_unheard=0.2, backoff_seconds_min=0.05)


async def until(is_so: Callable[[], object]) -> None:
    async with asyncio.timeout(60):
        while not is_so():
            await asyncio.sleep(0.01)


def make_deployment(**changes: Any) -> Deployment:
    seconds: dict[str, Any] = {"turn_seconds_max": 10.0, "attempt_seconds_max": 10.0, "first_piece_seconds_max": 5.0}
    return Deployment(**({"api_key": KEY, "dispatch": QUICK} | seconds | changes))


def run_with(
    behaviours: list[Behaviour],
    act: Callable[[OpenAIEngine, list[ChatServer]], Awaitable[Any]],
    **changes: Any,
) -> Any:
    async def main() -> Any:
        async with serving(*behaviours) as servers:
            of_engine = {name: changes.pop(name) for name in ("with_streams", "special_tokens") if name in changes}
            engine = OpenAIEngine(
                model="served",
                base_urls=[server.url for server in servers],
                deployment=make_deployment(**changes),
                **of_engine,
            )
            try:
                return await act(engine, servers)
            finally:
                await engine.close()

    return asyncio.run(main())


def answer_of(*behaviours: Behaviour, turn: Turn | None = None, **changes: Any) -> Answer:
    return run_with(list(behaviours), lambda engine, servers: engine.answer(turn or make_turn()), **changes)


async def collect(engine: OpenAIEngine, turn: Turn | None = None) -> list[Piece]:
    return [piece async for piece in engine.stream(turn or make_turn())]


def pieces_of(*behaviours: Behaviour, **changes: Any) -> list[Piece]:
    return run_with(list(behaviours), lambda engine, servers: collect(engine), **changes)


@pytest.mark.parametrize("num_replicas", [1, 2])
def test_an_answer_is_whole_with_its_counts_and_its_maker(num_replicas: int) -> None:
    answer = answer_of(*[answering()] * num_replicas)
    assert (answer.text, answer.finish_reason) == ("a wheel", "stop")
    assert (answer.num_prompt_tokens, answer.num_output_tokens) == (5, 3)
    assert answer.replica.startswith("http://127.0.0.1:")


def test_a_turns_settings_reach_the_server() -> None:
    async def act(engine: OpenAIEngine, servers: list[ChatServer]) -> ChatServer:
        await engine.answer(make_turn(stop=("\n",)))
        return servers[0]

    server = run_with([answering()], act)
    assert server.bodies == [
        {
            "model": "served",
            "messages": [{"role": "user", "content": "What is a flume?"}],
            "temperature": 0.7,
            "top_p": 0.9,
            "max_tokens": 40,
            "seed": 3,
            "stop": ["\n"],
        }
    ]
    assert (server.headers[0]["Authorization"], server.headers[0]["X-Request-Id"]) == (f"Bearer {KEY}", "unit-1")


def test_a_stream_comes_piece_by_piece_and_counts_in_its_last() -> None:
    pieces = pieces_of(answering())
    assert [piece.text for piece in pieces] == ["a ", "wheel", ""]
    last = pieces[-1]
    assert (last.finish_reason, last.num_prompt_tokens, last.num_output_tokens) == ("stop", 5, 3)


@pytest.mark.parametrize(
    "parts",
    {
        "comments and keep-alives": (b": ping\n\n", event("ab"), b":\n\n", event("c", "stop"), USAGE, DONE),
        "no space after data, CRLF": (event("ab").replace(b": ", b":", 1).replace(b"\n", b"\r\n"), event("c", "stop")),
        "event and id lines": (b"event: message\nid: 1\n" + event("abc", "stop"), DONE),
        "no DONE": (event("ab"), event("c"), event(reason="stop")),
        "DONE and no finish reason": (event("ab"), event("c"), DONE),
        "a role first": (b'data: {"choices":[{"delta":{"role":"assistant","content":null}}]}\n\n', event("abc"), DONE),
        "cut anywhere": tuple(bytes([one]) for one in event("abc") + event(reason="eos_token") + DONE),
        "all at once": (event("a") + event("b") + event("c", "stop") + USAGE + DONE,),
        "no last line end": (event("abc"), event(reason="stop").rstrip()),
        "a usage of null": (event("abc", usage=None), event(reason="stop", usage=None), DONE),
    }.values(),
)
def test_streams_as_servers_speak_them_are_understood(parts: tuple[bytes, ...]) -> None:
    pieces = pieces_of(streaming(*parts))
    assert ("".join(piece.text for piece in pieces), pieces[-1].finish_reason) == ("abc", "stop")


def test_a_whole_answer_where_a_stream_was_asked_for_is_taken() -> None:
    async def whole(server: ChatServer, request: Any, body: dict[str, Any]) -> Any:
        return await answering()(server, request, {})

    pieces = pieces_of(whole)
    assert "".join(piece.text for piece in pieces) == "a wheel"
    assert pieces[-1].num_output_tokens == 3


def test_thoughts_are_signs_of_work_and_no_text() -> None:
    thought = b'data: {"choices":[{"delta":{"reasoning_content":"hmm"}}]}\n\n'
    pieces = pieces_of(streaming(thought, thought, event("abc", "stop"), DONE))
    assert [piece.text for piece in pieces] == ["abc", ""]


def test_a_turn_that_spells_a_special_token_is_refused_and_not_sent() -> None:
    async def act(engine: OpenAIEngine, servers: list[ChatServer]) -> TurnRefused:
        with pytest.raises(TurnRefused, match=r"spells the special token '<\|im_end\|>'") as refused:
            await engine.answer(make_turn("a<|im_end|>b"))
        assert servers[0].bodies == []
        return refused.value

    refusal = run_with([answering()], act, special_tokens=("<|im_end|>",))
    assert refusal.status == 400
    assert refusal.for_clients == "A message spells one of the model's special tokens. Take it out of the text."


@pytest.mark.parametrize("status", [400, 413, 422])
def test_a_turn_that_the_server_refuses_is_refused_with_its_status(status: int) -> None:
    with pytest.raises(TurnRefused, match=f"answered {status}: too long") as refused:
        answer_of(refusing(status, "too long"), answering())
    assert refused.value.status == status


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504, 401, 404])
def test_what_one_server_cannot_another_does(status: int) -> None:
    async def act(engine: OpenAIEngine, servers: list[ChatServer]) -> list[Answer]:
        return [await engine.answer(make_turn()) for _ in range(4)]

    assert [one.text for one in run_with([refusing(status), answering()], act)] == ["a wheel"] * 4


@pytest.mark.parametrize(
    "broken",
    {
        "a reset": breaking(),
        "a reset in the middle": breaking(event("ab")),
        "a stream without an end": streaming(event("ab")),
        "an error as an event": streaming(event("ab"), b'data: {"error": {"message": "out of memory"}}\n\n'),
        "no JSON": streaming(b"data: <html>\n\n"),
        "no completion": streaming(b'data: {"choices": [7]}\n\n'),
    }.values(),
)
def test_an_attempt_that_breaks_is_repeated_elsewhere(broken: Behaviour) -> None:
    async def act(engine: OpenAIEngine, servers: list[ChatServer]) -> list[Answer]:
        return [await engine.answer(make_turn()) for _ in range(3)]

    assert [one.text for one in run_with([broken, answering()], act)] == ["a wheel"] * 3


def test_a_turn_that_breaks_everywhere_fails_after_its_attempts() -> None:
    async def act(engine: OpenAIEngine, servers: list[ChatServer]) -> int:
        with pytest.raises(EngineFailed, match="failed at every attempt; the last: http://.* answered 500: no"):
            await engine.answer(make_turn())
        return len(servers[0].bodies)

    assert run_with([refusing(500)], act) == 3


def test_nothing_is_repeated_once_a_piece_was_given_out() -> None:
    async def act(engine: OpenAIEngine, servers: list[ChatServer]) -> tuple[list[str], int]:
        seen: list[str] = []

        async def read() -> None:
            async for piece in engine.stream(make_turn()):
                seen.append(piece.text)  # noqa: PERF401 (what came before the error)

        with pytest.raises(EngineFailed, match="ended the"):
            await read()
        return seen, sum(len(server.bodies) for server in servers)

    assert run_with([breaking(event("ab"))] * 2, act) == (["ab"], 1)


def test_a_server_that_says_when_is_asked_again_then() -> None:
    assert answer_of(in_turn(refusing(429, **{"Retry-After": "0.2"}), answering())).text == "a wheel"


def test_where_all_are_busy_for_long_the_client_learns_when_to_come_back() -> None:
    with pytest.raises(EngineBusy, match="Every server is busy") as busy:
        answer_of(refusing(429, **{"Retry-After": "30"}))
    assert 25 < busy.value.retry_after_seconds <= 30


def test_where_nobody_listens_the_turn_fails_with_the_address() -> None:
    async def act() -> None:
        async with serving(answering()) as [server]:
            url = server.url
        settings = DispatchSettings(dead_seconds_max=0.3, backoff_seconds_min=0.05)
        engine = OpenAIEngine(model="served", base_urls=[url], deployment=Deployment(dispatch=settings))
        try:
            await engine.answer(make_turn())
        finally:
            await engine.close()

    with pytest.raises(EngineFailed, match=r"No server answers; the last attempt: http://127.0.0.1:\d+/v1 takes no"):
        asyncio.run(act())


def test_a_server_that_comes_back_is_found_by_a_probe_that_is_no_turn() -> None:
    async def act(engine: OpenAIEngine, servers: list[ChatServer]) -> int:
        for _ in range(8):
            await engine.answer(make_turn())
        await until(lambda: servers[0].num_probes)
        found: set[str] = set()
        while len(found) < len(servers):
            found |= {one.replica for one in await asyncio.gather(*(engine.answer(make_turn()) for _ in range(8)))}
        return servers[0].num_probes

    assert run_with([in_turn(breaking(), breaking(), answering()), answering()], act) >= 1


def test_a_server_that_must_bring_its_model_gets_no_turn_while_another_has_it() -> None:
    async def act(engine: OpenAIEngine, servers: list[ChatServer]) -> list[int]:
        servers[0].models_body = {"data": [{"id": "other", "come_seconds": 0}, {"id": "served", "come_seconds": 30.0}]}
        await engine.answer(make_turn())
        await until(lambda: all(server.num_probes for server in servers))
        await until(lambda: engine.dispatcher.expected_seconds(0, 10) > 20)
        before = len(servers[0].bodies)
        for _ in range(5):
            await engine.answer(make_turn())
        cold = len(servers[0].bodies) - before
        servers[0].models_body = {"data": [{"id": "served", "come_seconds": 0}]}
        while len(servers[0].bodies) == before:
            await engine.answer(make_turn())
        return [cold, len(servers[1].bodies)]

    cold, warm = run_with([streaming(event("a wheel", "stop"), DONE), streaming(event("a wheel", "stop"), DONE)], act)
    assert cold == 0
    assert warm >= 5


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"no JSON",
        b"[]",
        b'{"data": 7}',
        b'{"data": [7]}',
        b'{"data": [{"id": "served"}]}',
        b'{"data": [{"id": "another", "come_seconds": 3}]}',
        b'{"data": [{"id": "served", "come_seconds": "3"}]}',
        b'{"data": [{"id": "served", "come_seconds": true}]}',
        b'{"data": [{"id": "served", "come_seconds": -1}]}',
        b'{"data": [{"id": "served", "come_seconds": NaN}]}',
        b'{"data": [{"id": "served", "come_seconds": 1e999}]}',
        b"[" * 100_000,
    ],
)
def test_a_list_of_models_that_says_nothing_of_its_coming_says_nothing(said: bytes) -> None:
    assert come_seconds_in(said, "served") is None


def test_of_what_a_list_of_models_says_the_soonest_counts_and_no_more_than_an_hour() -> None:
    rows = b'{"data": [{"id": "served", "come_seconds": %s}, {"id": "served", "come_seconds": 2.5}]}'
    assert come_seconds_in(rows % b"7", "served") == 2.5
    assert come_seconds_in(b'{"data": [{"id": "served", "come_seconds": 1e15}]}', "served") == 3600.0


def test_a_turn_on_a_silent_server_is_moved_and_its_connection_closed() -> None:
    async def act(engine: OpenAIEngine, servers: list[ChatServer]) -> tuple[list[str], int]:
        answers = await asyncio.gather(*(engine.answer(make_turn()) for _ in range(4)))
        await until(lambda: servers[0].num_gone == 2)
        return [one.text for one in answers], servers[0].num_gone

    texts, num_gone = run_with([hanging(), answering()], act)
    assert texts == ["a wheel"] * 4
    assert num_gone == 2


def test_a_client_that_leaves_ends_the_work_at_the_server() -> None:
    async def act(engine: OpenAIEngine, servers: list[ChatServer]) -> int:
        task = asyncio.create_task(engine.answer(make_turn()))
        await until(lambda: servers[0].bodies)
        # The dispatcher expects its first piece by the prompt's length.
        [ticket] = engine.dispatcher.replicas[0].live
        assert ticket.num_prompt_characters == len("What is a flume?")
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        async for _ in engine.stream(make_turn()):
            break
        await until(lambda: servers[0].num_gone == 2)
        return servers[0].num_gone

    behave = in_turn(hanging(), streaming(*[event("ab")] * 50, seconds_between=0.05))
    assert run_with([behave], act) == 2


@pytest.mark.parametrize(("stream", "said"), {True: "sent nothing for 1 s", False: "was not done in time"}.items())
def test_a_silent_lone_server_fails_the_turn_in_time(stream: bool, said: str) -> None:
    first, whole = (1.0, 5.0) if stream else (5.0, 1.0)
    settings = DispatchSettings(num_attempts=1)
    with pytest.raises(EngineFailed, match=said) as failed:
        answer_of(
            hanging(),
            dispatch=settings,
            with_streams=stream,
            first_piece_seconds_max=first,
            turn_seconds_max=whole,
        )
    assert failed.value.timed_out


def test_a_server_without_stream_options_is_asked_without_them() -> None:
    async def picky(server: ChatServer, request: Any, body: dict[str, Any]) -> Any:
        if "stream_options" in body:
            return await refusing(400, "unknown field stream_options")(server, request, body)
        return await answering()(server, request, body)

    async def act(engine: OpenAIEngine, servers: list[ChatServer]) -> int:
        assert [piece.text for piece in await collect(engine)] == ["a ", "wheel", ""]
        await collect(engine)
        return len(servers[0].bodies)

    assert run_with([picky], act) == 3


@pytest.mark.parametrize("status", [400, 401, 500])
def test_a_key_that_the_server_repeats_is_in_no_error(status: int) -> None:
    with pytest.raises((TurnRefused, EngineFailed), match=f"answered {status}") as told:
        answer_of(refusing(status, f"Incorrect key {KEY}"))
    assert KEY not in str(told.value)


def test_a_password_in_an_address_is_in_no_name() -> None:
    engine = OpenAIEngine(model="served", base_urls=["http://user:hidden@127.0.0.1:9/v1"])
    assert [replica.name for replica in engine.dispatcher.replicas] == ["http://127.0.0.1:9/v1"]


def test_a_password_beside_a_key_is_refused() -> None:
    with pytest.raises(InvalidInput, match="has a user of its own, and an API key is given too; leave one out") as told:
        OpenAIEngine(model="served", base_urls=["http://user:hidden@127.0.0.1:9/v1"], deployment=make_deployment())
    assert "hidden" not in str(told.value)


def test_closing_fails_the_turns_under_way() -> None:
    async def act(engine: OpenAIEngine, servers: list[ChatServer]) -> None:
        task = asyncio.create_task(engine.answer(make_turn()))
        await until(lambda: servers[0].bodies)
        await engine.close()
        with pytest.raises(EngineFailed, match="is being closed"):
            await task

    run_with([hanging()], act)
