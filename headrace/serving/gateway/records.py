"""What the gateway did, as one JSON line a step and a unit: the proof that each unit saw one version set.

| kind | written when | says |
|---|---|---|
| step | a role answered, or failed | unit, version_set, entry, role, replica, seconds, tokens, finish |
| unit | a unit ended, however | those ids, reason, key's name, status, seconds, first_piece_seconds, tokens, finish |
| shadow | a copy of a unit on the candidate ended | as a unit, and the answer's length |
| judgement | an answer was scored | version_set, judge_set, score |
| refused | a request ended before it was a unit | status, code, key's name |
| gateway | it starts, is ready, gets a plan, prepares or closes a set, drains, ends | event and what belongs to it |

No prompt and no answer stands in it unless `content` is on, and never a key. `started_at` is when the unit was pinned,
in seconds since the Unix epoch.

Lines are handed to a thread: a disk that hangs, or a pipe that nobody reads, holds no request up. The price: `kill -9`
loses the lines of the last 50 ms, and beyond 100,000 lines that wait, new ones are counted and dropped.
"""

import json
import os
import sys
import threading
import traceback
from collections import deque
from contextlib import suppress
from pathlib import Path
from typing import Any

from headrace.clock import Clock, SystemClock
from headrace.errors import InvalidInput
from headrace.text.visible import json_visible

_FLUSH_SECONDS = 0.05
_NUM_LINES_MAX = 100_000
# How long the end of the process waits for a disk that hangs.
_CLOSE_SECONDS_MAX = 5.0
_ENCODE = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), default=str).encode


class Records:
    """A log of JSON lines, to a file or to standard output."""

    def __init__(self, file: Path | None, *, gateway: str, content: bool = False, clock: Clock | None = None) -> None:
        """Args:
            file: is appended to; None: standard output.
            gateway: stands in every line.
            content: whether steps may hold messages and answers.

        Raises:
            InvalidInput: the file cannot be written.
        """
        self.content = content
        self.num_dropped = 0
        self._file = file
        self._gateway = gateway
        self._clock = clock or SystemClock()
        self._lines: deque[dict[str, Any]] = deque()
        self._descriptor = self._open()
        self._reopen = threading.Event()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._write_lines, name="records", daemon=True)
        self._thread.start()

    def add(self, kind: str, line: dict[str, Any]) -> None:
        """Keep a line; `line` is the log's from here on."""
        if len(self._lines) >= _NUM_LINES_MAX:
            self.num_dropped += 1
            return
        line["at"] = round(self._clock.now(), 6)
        line["kind"] = kind
        self._lines.append(line)

    def event(self, event: str, **fields: Any) -> None:
        self.add("gateway", {"event": event, **fields})

    def unforeseen(self, error: Exception, **fields: Any) -> None:
        """An error that is a fault of ours: where it came from goes into the log, its text may hold a prompt."""
        places = [
            f"{frame.filename}:{frame.lineno} {frame.name}" for frame in traceback.extract_tb(error.__traceback__)
        ]
        self.event("error", error=type(error).__name__, places=places[-8:], **fields)

    def reopen(self) -> None:
        """After a rotation: what follows goes to the file of that name, newly made."""
        self._reopen.set()

    def close(self) -> None:
        self._ended.set()
        self._thread.join(_CLOSE_SECONDS_MAX)

    def _open(self) -> int:
        if self._file is None:
            return sys.stdout.fileno()
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            return os.open(self._file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o640)
        except OSError as error:
            raise InvalidInput(
                f"The log {self._file} cannot be written: {error.strerror}; name another file."
            ) from error

    def _write_lines(self) -> None:
        while True:
            ended = self._ended.wait(_FLUSH_SECONDS)
            if self._reopen.is_set():
                self._reopen.clear()
                self._open_again()
            self._flush()
            if ended and not self._lines:
                return

    def _flush(self) -> None:
        lines = [self._lines.popleft() for _ in range(len(self._lines))]
        if not lines:
            return
        for line in lines:
            line["gateway"] = self._gateway
        body = ("\n".join([_line(line) for line in lines]) + "\n").encode()
        view = memoryview(body)
        try:
            while view:
                view = view[os.write(self._descriptor, view) :]
        except OSError:
            # A full disk: the log must not end the service. What is missing is counted.
            self.num_dropped += len(lines)

    def _open_again(self) -> None:
        if self._file is None:
            return
        with suppress(InvalidInput):
            descriptor = self._open()
            os.close(self._descriptor)
            self._descriptor = descriptor


def _line(line: dict[str, Any]) -> str:
    """Whoever reads the log on a terminal sees what was written, and nothing in it moves.

    Most lines hold nothing but visible ASCII, and to look through each character of them would cost a request a tenth.
    """
    text = _ENCODE(line)
    return text if text.isascii() and "\x7f" not in text else json_visible(text)
