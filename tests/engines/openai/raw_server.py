"""A server on loopback that sends bytes as a test says: what no HTTP library would send is sent too."""

import json
import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

# What is asked: the last message's text, and how often it was asked before.
Answers = Callable[[str, int], bytes | Iterable[bytes]]
CONTROL = "Say one word."


class RawServer:
    """One answer a connection. `asked`: prompts as they came; `num_sent`: bytes that clients took."""

    def __init__(self, answers: Answers) -> None:
        self.answers = answers
        self.asked: list[str] = []
        self.heads: list[str] = []
        self.num_sent = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}/v1"
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        # Wakes the thread that accepts; a close alone does not.
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, suppress(OSError):
            connection.settimeout(60)
            raw = b""
            while b"\r\n\r\n" not in raw:
                more = connection.recv(65_536)
                if not more:
                    return
                raw += more
            head, _, body = raw.partition(b"\r\n\r\n")
            self.heads.append(head.decode())
            lengths = [
                line.split(b":")[1] for line in head.split(b"\r\n") if line.lower().startswith(b"content-length")
            ]
            while len(body) < int(lengths[0] if lengths else 0):
                body += connection.recv(65_536)
            if not body:
                connection.sendall(http(b"{}"))
                return
            prompt = json.loads(body)["messages"][-1]["content"]
            num_before = self.asked.count(prompt)
            self.asked.append(prompt)
            answer = http(completion("fine")) if prompt == CONTROL else self.answers(prompt, num_before)
            for part in [answer] if isinstance(answer, bytes) else answer:
                connection.sendall(part)
                self.num_sent += len(part)


@contextmanager
def raw_server(answers: Answers) -> Iterator[RawServer]:
    server = RawServer(answers)
    try:
        yield server
    finally:
        server.close()


def http(
    body: bytes | dict[str, Any] = b"",
    status: int = 200,
    *,
    reason: str = "OK",
    kind: str = "application/json",
    **headers: str,
) -> bytes:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = [f"HTTP/1.1 {status} {reason}", f"Content-Type: {kind}", f"Content-Length: {len(raw)}", "Connection: close"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + raw


def endless(first: bytes, each: bytes, *, kind: str = "application/json") -> Iterator[bytes]:
    """A body that ends when its reader does."""
    yield f"HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nConnection: close\r\n\r\n".encode() + first
    while True:
        yield each


def completion(text: Any, reason: Any = "stop", **more: Any) -> dict[str, Any]:
    usage = {"prompt_tokens": 5, "completion_tokens": 3}
    return {
        "choices": [{"message": {"role": "assistant", "content": text}, "finish_reason": reason}],
        "usage": usage,
    } | more


def events(*bodies: Any, done: bool = True, end: str = "\n\n") -> bytes:
    """`bodies`: texts of pieces, or whole events."""
    made = [body if isinstance(body, dict) else {"choices": [{"delta": {"content": body}}]} for body in bodies]
    lines = [f"data: {json.dumps(body)}" for body in made] + (["data: [DONE]"] if done else [])
    return "".join(line + end for line in lines).encode()
