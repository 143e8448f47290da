"""Servers of pictures and speech that answer what harms: a row's error, nothing fetched elsewhere, bounded memory."""

import asyncio
import gzip
import json
import time
from collections.abc import Iterable, Iterator
from typing import Any

import pytest

from headrace.engines.base import EngineBusy, EngineFailed, NoAnswer, TurnRefused
from headrace.engines.openai.media_client import OpenAIMediaEngine
from headrace.version_sets.media_settings import Picture, Speech
from simulation.servers import media
from simulation.servers.chat import ChatServer, endless, http, serving
from simulation.servers.media import base64_of, making, picture, refusal
from tests.engines.openai.media_askers import (
    KEY,
    PICTURE,
    SPEECH,
    asked,
    made_by,
    make_deployment,
    make_member,
    make_turn,
)

BODY = {"prompt": "a wheel", "size": "32x24"}
WELL = picture(BODY)
GIF = picture(BODY, "GIF")
TRUNCATED = WELL[:-20]


def inline(content: bytes | str, **more: Any) -> bytes:
    text = content if isinstance(content, str) else base64_of(content)
    return http({"data": [{"b64_json": text, **more}]})


PICTURES: dict[str, tuple[bytes, str]] = {
    "a GIF that is called PNG": (http(GIF, kind="image/png"), "no PNG, JPEG or WebP"),
    "a page of HTML": (http(b"<!DOCTYPE html><h1>503</h1>", kind="text/html"), "no picture: <!DOCTYPE html>"),
    "a page of HTML that is called PNG": (http(b"<html>", kind="image/png"), "no picture: <html>"),
    "plain text": (http(b"generating ...", kind="text/plain"), "no PNG, JPEG or WebP that can be decoded"),
    "nothing": (http(b"", kind="image/png"), "no picture"),
    "another size": (inline(picture(BODY, size=(64, 64))), "must paint 32 × 24 pixels, got a PNG of 64 × 64"),
    "half a picture": (inline(TRUNCATED), "no PNG, JPEG or WebP that can be decoded"),
    "no Base64": (inline("not*base64*"), "its picture is no Base64"),
    "Base64 of nothing": (inline("===="), "no Base64"),
    "a data: address without Base64": (inline("data:image/svg+xml,<svg/>"), "a data: address without Base64"),
    "a list of numbers": (http({"data": [{"b64_json": [1, 2]}]}), "neither b64_json nor url"),
    "an empty list": (http({"data": []}), "no picture"),
    "no list": (http({"data": {"b64_json": "a"}}), "no picture"),
    "another protocol": (http({"images": ["a"]}), "no picture"),
    "JSON that ends": (http(b'{"data": [{"b64_json": "aaaa'), "no picture"),
    "JSON of a thousand lists": (http(b'{"data":' + b"[" * 100_000), "no picture (RecursionError)"),
    "an error with status 200": (
        http({"error": {"message": "out of memory"}}),
        "in it 500: the server says: out of memory",
    ),
    "a redirect": (http(b"", 302, Location="http://127.0.0.1:9/"), "answered 302"),
    "what is no HTTP": (b"\x00\x01\x02\r\n\r\n", "sent what is no HTTP|ended the connection"),
    "a broken encoding": (http(b"abc", Content_Encoding="gzip"), "not in the content encoding"),
    "an unknown encoding": (http(b"abc", Content_Encoding="br"), "its content encoding is 'br'"),
    "more bytes than were sent": (
        b"HTTP/1.1 200 OK\r\nContent-Length: 900\r\n\r\n" + WELL[:50],
        "ended the connection",
    ),
}


@pytest.mark.parametrize("name", PICTURES)
def test_an_answer_that_is_no_picture_is_its_rows_error(name: str) -> None:
    raw, why = PICTURES[name]
    [outcome], _ = made_by(making(lambda server, body: raw), num_attempts=1)
    assert isinstance(outcome, EngineFailed)
    assert any(one in str(outcome) for one in why.split("|")), outcome


SPEECHES: dict[str, tuple[bytes, str]] = {
    "an MP3 that is called WAV": (http(b"ID3\x04" + bytes(99), kind="audio/wav"), "must be a WAV, got MP3"),
    "an Ogg": (http(b"OggS" + bytes(99), kind="audio/wav"), "must be a WAV, got Ogg"),
    "JSON": (http({"audio": "UklGRg=="}), "no recording"),
    "too long": (http(media.recording({"input": "a wheel " * 50})), "must speak for at most 20 s"),
    "another rate": (http(media.recording({"input": "a"}, rate=8000)), "must speak at 16000 samples a second"),
    "a picture": (http(WELL), "must be a WAV"),
}


@pytest.mark.parametrize("name", SPEECHES)
def test_an_answer_that_is_no_recording_is_its_rows_error(name: str) -> None:
    raw, why = SPEECHES[name]
    speech = Speech(sample_rate=16_000, duration_seconds_max=20)
    [outcome], _ = made_by(making(lambda server, body: raw), made=speech, num_attempts=1)
    assert isinstance(outcome, EngineFailed)
    assert why in str(outcome)


@pytest.mark.parametrize("code", ["content_policy_violation", "moderation_blocked"])
@pytest.mark.parametrize("status", [400, 200])
def test_a_refusal_by_policy_is_no_error_and_is_not_sent_again(code: str, status: int) -> None:
    raw = refusal("This request was blocked by our moderation system.", status, code)
    [outcome], [server] = made_by(making(lambda server, body: raw), num_attempts=3)
    assert isinstance(outcome, TurnRefused)
    assert outcome.by_policy
    assert "blocked by our moderation system" in str(outcome)
    assert len(server.bodies) == 1


def test_what_a_server_does_not_take_is_told_in_its_words() -> None:
    [outcome], _ = made_by(making(media.openai))
    assert isinstance(outcome, TurnRefused)
    assert not outcome.by_policy
    assert "Unknown parameter: 'response_format'" in str(outcome)
    [outcome], _ = made_by(making(media.vllm_omni), request={"seed": "a"})
    assert "answered 422: body.seed: Input should be a valid integer" in str(outcome)
    detail = http({"detail": "size must be WxH"}, 400)
    [outcome], _ = made_by(making(lambda server, body: detail))
    assert "answered 400: size must be WxH" in str(outcome)


@pytest.mark.parametrize("answer", [http(b"", 429), http(b"", 503, Retry_After="9")])
def test_a_busy_server_is_waited_for(answer: bytes) -> None:
    [outcome], _ = made_by(making(lambda server, body: answer), busy_seconds_max=0.1)
    assert isinstance(outcome, EngineBusy)


def test_a_server_that_fails_once_is_asked_again() -> None:
    def fails_once(server: ChatServer, body: dict[str, Any]) -> bytes:
        return http(b"", 500) if len(server.bodies) == 1 else media.vllm_omni(server, body)

    [outcome], [server] = made_by(making(fails_once), backoff_seconds_min=0.01)
    assert not isinstance(outcome, NoAnswer)
    assert len(server.bodies) == 2


class Counted:
    def __init__(self, parts: Iterable[bytes]) -> None:
        self._parts = parts
        self.num_bytes = 0

    def __iter__(self) -> Iterator[bytes]:
        for part in self._parts:
            self.num_bytes += len(part)
            yield part


ENDLESS = {
    "a picture": lambda: media.gigabyte("image/png", WELL),
    "a picture whose length is told": lambda: media.gigabyte("image/png", WELL, with_length=True),
    "Base64": lambda: media.gigabyte("application/json", b'{"data": [{"b64_json": "'),
    "JSON of one answer after the other": lambda: endless(b'{"data": [', b"{}," * 20_000),
}


@pytest.mark.parametrize("name", ENDLESS)
@pytest.mark.parametrize("made", [PICTURE, Speech(sample_rate=8000, duration_seconds_max=1)])
def test_an_answer_of_a_gigabyte_is_cut_off_while_it_comes(name: str, made: Picture | Speech) -> None:
    sent = Counted(ENDLESS[name]())
    [outcome], _ = made_by(making(lambda server, body: sent), made=made, num_attempts=1)
    assert isinstance(outcome, EngineFailed)
    # 1.4 MB may be read; the sockets' buffers hold the rest.
    assert sent.num_bytes < 12_000_000, sent.num_bytes


def test_a_small_answer_that_unpacks_to_a_gigabyte_is_cut_off() -> None:
    packed = gzip.compress(bytes(64_000_000), 9)
    [outcome], _ = made_by(making(lambda server, body: http(packed, Content_Encoding="gzip")), num_attempts=1)
    assert isinstance(outcome, EngineFailed)
    assert "longer than" in str(outcome)


def test_a_picture_with_too_many_pixels_is_never_decoded() -> None:
    bomb = media.png_bomb(6000, 6000)
    assert len(bomb) < 200_000
    [outcome], _ = made_by(making(lambda server, body: inline(bomb)), num_attempts=1)
    assert "must paint 32 × 24 pixels, got a PNG of 6000 × 6000" in str(outcome)


# What stands in `url`; HERE and THERE are the asked server's address and another's.
ELSEWHERE = {
    "another host": "THERE/x.png",
    "another host without a scheme": "//THEREHOST/x.png",
    "a user that looks like the host": "http://HEREHOST@THEREHOST/x.png",
    "a backslash": "http://THEREHOST\\@HEREHOST/x.png",
    "a redirect to another host": "HERE/away",
    "a redirect to another host, relative": "/away",
    "a file": "file:///etc/hostname",
    "a port of this host": "http://127.0.0.1:1/x.png",
    "no address": "http://[",
    "what is no address at all": "\udcff\x00",
    "a redirect in a circle": "/circle",
    "a missing file": "/missing.png",
}


@pytest.mark.parametrize("name", ELSEWHERE)
def test_nothing_is_fetched_from_elsewhere(name: str) -> None:
    elsewhere: list[ChatServer] = []

    def points(server: ChatServer, body: dict[str, Any]) -> bytes:
        here, there = server.url.removesuffix("/v1"), elsewhere[0].url.removesuffix("/v1")
        elsewhere[0].files["/x.png"] = http(WELL, kind="image/png")
        server.files["/away"] = http(b"", 302, Location=f"{there}/x.png")
        server.files["/circle"] = http(b"", 302, Location="/circle")
        address = ELSEWHERE[name].replace("THEREHOST", there[7:]).replace("HEREHOST", here[7:])
        address = address.replace("THERE", there).replace("HERE", here)
        return http(json.dumps({"data": [{"url": address}]}).encode())

    [outcome], [server] = made_by(making(points), elsewhere=elsewhere, num_attempts=1)
    assert isinstance(outcome, EngineFailed)
    assert "address" in str(outcome)
    assert elsewhere[0].fetched == []
    assert elsewhere[0].bodies == []
    assert len(server.fetched) <= 4


def test_a_named_host_is_asked_without_the_key() -> None:
    elsewhere: list[ChatServer] = []

    def points(server: ChatServer, body: dict[str, Any]) -> bytes:
        there = elsewhere[0].url.removesuffix("/v1")
        elsewhere[0].files["/x.png?sig=a%2Fb"] = http(WELL, kind="image/png")
        server.files["/away"] = http(b"", 307, Location=f"{there}/x.png?sig=a%2Fb")
        return http({"data": [{"url": "/away"}]})

    [outcome], [server] = made_by(making(points), elsewhere=elsewhere, allow_url_hosts=("127.0.0.1",))
    assert not isinstance(outcome, NoAnswer)
    assert outcome[0].content == WELL
    assert KEY in str(server.fetched)
    [(path, headers)] = elsewhere[0].fetched
    assert (path, "Authorization" in headers) == ("/x.png?sig=a%2Fb", False)


def test_a_file_of_a_gigabyte_behind_an_address_is_cut_off() -> None:
    def points(server: ChatServer, body: dict[str, Any]) -> bytes:
        server.files["/x.png"] = http(WELL + bytes(3_000_000), kind="image/png")
        return http({"data": [{"url": "/x.png"}]})

    [outcome], _ = made_by(making(points), num_attempts=1)
    assert "more than the" in str(outcome)


def test_a_server_that_drips_is_left_in_time() -> None:
    def drips(server: ChatServer, body: dict[str, Any]) -> Iterator[bytes]:
        yield b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n"
        while True:
            time.sleep(0.01)
            yield b"\x89"

    [outcome], _ = made_by(making(drips), num_attempts=1, seconds=1.5)
    assert isinstance(outcome, EngineFailed)
    assert outcome.timed_out
    assert "was not done in 1.5 s" in str(outcome)


def test_no_secret_comes_out_of_what_a_server_says() -> None:
    answers = {
        "an address": http({"data": [{"url": f"http://elsewhere/{KEY}?token={KEY}"}]}),
        "a refusal": refusal(f"no picture for {KEY}"),
        "a detail": http({"detail": [{"loc": ["body", KEY], "msg": KEY}]}, 422),
        "a page": http(f"<html>{KEY}".encode()),
        "a revised prompt": inline(WELL, revised_prompt=f"a wheel and {KEY}"),
    }
    for name, raw in answers.items():
        [outcome], _ = made_by(making(lambda server, body, raw=raw: raw), num_attempts=1)
        told = str(outcome) if isinstance(outcome, NoAnswer) else str(outcome[0].attributes)
        assert KEY not in told, name


def test_a_wild_revised_prompt_costs_the_picture_nothing() -> None:
    for said in (7, ["a"], "\ud800", "x" * 1_000_000, ""):
        raw = http(json.dumps({"data": [{"b64_json": base64_of(WELL), "revised_prompt": said}]}).encode())
        [outcome], _ = made_by(making(lambda server, body, raw=raw: raw))
        assert not isinstance(outcome, NoAnswer), said
        assert len("".join(outcome[0].attributes.values())) <= 8192


def test_several_pictures_for_one_asked_are_noted() -> None:
    raw = http({"data": [{"b64_json": base64_of(WELL)}, {"b64_json": base64_of(WELL)}]})
    [outcome], _ = made_by(making(lambda server, body: raw), turns=(make_turn(),))
    assert not isinstance(outcome, NoAnswer)
    assert outcome[0].note == "2 pictures for one asked: the first is taken"


def test_speech_that_comes_as_json_with_an_error_has_its_meaning() -> None:
    raw = http({"error": {"message": "slow down", "code": "rate_limit_exceeded"}})
    [outcome], _ = made_by(making(lambda server, body: raw), made=SPEECH, busy_seconds_max=0.1)
    assert isinstance(outcome, EngineBusy)


def test_a_given_up_turn_ends_the_servers_work_and_leaves_the_engine_well() -> None:
    async def main() -> None:
        async with serving(making(media.vllm_omni, seconds=0.5)) as [server]:
            member = make_member()
            engine = OpenAIMediaEngine(
                member=member, model="served", base_urls=[server.url], deployment=make_deployment()
            )
            task = asyncio.create_task(engine.make(make_turn()))
            while not server.bodies:
                await asyncio.sleep(0.005)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            while not server.num_gone:
                await asyncio.sleep(0.005)
            server.behave = making(media.vllm_omni)
            [outcome] = await asked(engine, member)
            assert not isinstance(outcome, NoAnswer)
            await engine.close()

    asyncio.run(main())
