"""Servers of pictures and speech in this process: each dialect as its server speaks it, and answers that harm.

A dialect is a function from a request's body to the bytes of the whole HTTP answer; it refuses keys that its server
would refuse. Pictures and recordings are true ones, drawn by prompt and seed.
"""

import asyncio
import base64
import io
import json
import struct
import wave
import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
from aiohttp import web
from PIL import Image

from simulation.servers.chat import Behaviour, ChatServer, asked_of, http

Dialect = Callable[["ChatServer", dict[str, Any]], "bytes | Iterable[bytes]"]
# Bulk generation's control turn of media.
CONTROL = "A mill wheel."


def making(dialect: Dialect, *, is_alive: bool = True, seconds: float = 0.0) -> Behaviour:
    """Answers as the dialect says. `is_alive`: whether it makes the control turn well, whatever else it answers."""

    async def behave(server: ChatServer, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        await asyncio.sleep(seconds)
        well = is_alive and asked_of(body) == CONTROL
        kind = vllm_omni if "prompt" in body else spoken
        answer = (kind if well else dialect)(server, body)
        assert request.transport is not None
        for part in [answer] if isinstance(answer, bytes) else answer:
            request.transport.write(part)
            await request.writer.drain()
            # Lets the client's end of the connection be seen.
            await asyncio.sleep(0)
            if request.transport.is_closing():
                break
        request.transport.close()
        return web.Response()

    return behave


def picture(body: dict[str, Any], form: str = "PNG", size: tuple[int, int] | None = None, **saving: Any) -> bytes:
    """Drawn by the prompt and the seed."""
    width, height = size or tuple(map(int, str(body.get("size", "32x24")).split("x")))
    draw = np.random.default_rng([zlib.crc32(asked_of(body).encode()), int(body.get("seed", 0))])
    small = Image.fromarray(draw.integers(0, 255, (4, 4, 3), np.uint8))
    found = io.BytesIO()
    small.resize((width, height)).save(found, form, **saving)
    return found.getvalue()


def recording(body: dict[str, Any], *, rate: int = 16_000) -> bytes:
    """A tone, as long as its text takes at the speed that was asked for."""
    seconds = len(asked_of(body)) / 14 / float(body.get("speed", 1))
    tone = np.sin(np.arange(int(seconds * rate)) * (0.05 + int(body.get("seed", 0)) % 97 / 1000))
    found = io.BytesIO()
    with wave.open(found, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes((tone * 8000).astype("<i2").tobytes())
    return found.getvalue()


def base64_of(content: bytes) -> str:
    return base64.b64encode(content).decode()


def refusal(message: str, status: int = 400, code: str | None = None) -> bytes:
    error = {"message": message, "type": "invalid_request_error", "param": None, "code": code}
    return http({"error": error}, status)


# --- dialects ---


def openai(server: ChatServer, body: dict[str, Any]) -> bytes:
    """Like gpt-image: always Base64, and no key that it does not know."""
    known = {"model", "prompt", "n", "size", "quality", "background", "output_format", "moderation", "user"}
    if unknown := sorted(body.keys() - known):
        return refusal(f"Unknown parameter: '{unknown[0]}'.", code="unknown_parameter")
    usage = {"input_tokens": 10, "output_tokens": 1056, "total_tokens": 1066}
    return http({"created": 1, "data": [{"b64_json": base64_of(picture(body))}], "usage": usage})


def vllm_omni(server: ChatServer, body: dict[str, Any]) -> bytes:
    if not isinstance(body.get("n", 1), int) or not isinstance(body.get("seed", 0), int):
        return http({"detail": [{"loc": ["body", "seed"], "msg": "Input should be a valid integer"}]}, 422)
    data = {"b64_json": base64_of(picture(body)), "url": None, "revised_prompt": None}
    return http({"created": 1, "data": [data], "output_format": "png", "size": body.get("size")})


def vllm_omni_file(server: ChatServer, body: dict[str, Any]) -> bytes:
    """`response_format: file`: the body is the picture."""
    return http(picture(body), kind="image/png") if body.get("response_format") == "file" else vllm_omni(server, body)


def sglang(server: ChatServer, body: dict[str, Any]) -> bytes:
    """JPEG unless something else is asked for, and the prompt once more as the revised one."""
    form = str(body.get("output_format", "jpeg")).upper()
    data = {"b64_json": base64_of(picture(body, form)), "url": None, "revised_prompt": f"{body['prompt']}, detailed"}
    return http({"created": 1, "data": [data]})


def localai(server: ChatServer, body: dict[str, Any]) -> bytes:
    """An address on itself, as its own configuration says it."""
    path = f"/generated-images/b64{zlib.crc32(json.dumps(body).encode())}.png"
    server.files[path] = http(picture(body), kind="image/png")
    address = server.url.removesuffix("/v1") + path
    return http({"id": "1", "created": 1, "data": [{"url": address, "index": 0}], "usage": {}})


def localai_relative(server: ChatServer, body: dict[str, Any]) -> bytes:
    server.files["/generated-images/a.png"] = http(picture(body), kind="image/png")
    return http({"created": 1, "data": [{"url": "/generated-images/a.png"}]})


def data_address(server: ChatServer, body: dict[str, Any]) -> bytes:
    return http({"created": 1, "data": [{"url": f"data:image/png;base64,{base64_of(picture(body))}"}]})


def data_in_base64(server: ChatServer, body: dict[str, Any]) -> bytes:
    return http({"created": 1, "data": [{"b64_json": f"data:image/png;base64,{base64_of(picture(body))}"}]})


def spoken(server: ChatServer, body: dict[str, Any]) -> bytes:
    """Speech of any server that was asked for WAV."""
    if body.get("response_format") != "wav":
        return http(b"ID3\x04" + bytes(64), kind="audio/mpeg")
    return http(recording(body), kind="audio/wav")


def spoken_in_a_stream(server: ChatServer, body: dict[str, Any]) -> bytes:
    """A WAV whose header was written before anybody knew how long it gets."""
    content = bytearray(recording(body))
    content[4:8] = content[40:44] = b"\xff\xff\xff\xff"
    return http(bytes(content), kind="audio/mpeg")


# --- harm ---


def png_bomb(width: int, height: int) -> bytes:
    """A small PNG with that many pixels, all of them there."""
    rows = zlib.compressobj(9)
    data = b"".join(rows.compress(bytes(1 + 3 * width)) for _ in range(height)) + rows.flush()
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + png_chunk(b"IDAT", data) + png_chunk(b"IEND", b"")


def png_chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def gigabyte(kind: str, first: bytes = b"", *, with_length: bool = False) -> Iterator[bytes]:
    """A body of 1 GB, or until its reader leaves."""
    length = f"Content-Length: {2**30 + len(first)}\r\n" if with_length else ""
    yield f"HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\n{length}Connection: close\r\n\r\n".encode() + first
    for _ in range(2**30 // 65_536):
        yield b"A" * 65_536
