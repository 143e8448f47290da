"""The gateway's log: one JSON line for each step and unit, which proves that each unit saw one version set.

| kind | written when | content |
|---|---|---|
| step | a role answered, or failed | unit, version_set, entry, role, replica, seconds, tokens, finish |
| unit | a unit ended in any way | those ids, reason, key's name, status, seconds, first_piece_seconds, tokens, finish |
| shadow | a unit's copy on the candidate ended | as a unit, and the answer's length |
| judgement | an answer was scored | version_set, judge_set, score |
| refused | a request ended before it was a unit | status, code, key's name |
| gateway | it starts, is ready, gets a plan, prepares or closes a set, drains, ends | event and its fields |

A step that painted or spoke has media_type, bytes (how many) and xxh3_128 of what it made.

Lines hold no prompt or answer unless `content` is on, and never a key. `started_at` is when the unit was pinned, in
seconds since the Unix epoch.

A thread writes the lines, so a disk that hangs or a pipe that nobody reads delays no request. The price: `kill -9`
loses the lines of the last 50 ms, and beyond 100,000 waiting lines new ones are counted and dropped.
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
# How long the process's end waits for a disk that hangs.
_CLOSE_SECONDS_MAX = 5.0
_ENCODE = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), default=str).encode


class Records:
    """A log of JSON lines, to a file or to standard output."""

    def __init__(self, file: Path | None, *, gateway: str, content: bool = False, clock: Clock | None = None) -> None:
        """Args:
            file: is appended to; None: standard output.
            gateway: added to every line.
            content: whether steps include messages and answers.

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
        """Adds a line; the log owns `line` from here on."""
        if len(self._lines) >= _NUM_LINES_MAX:
            self.num_dropped += 1
            return
        line["at"] = round(self._clock.now(), 6)
        line["kind"] = kind
        self._lines.append(line)

    def event(self, event: str, **fields: Any) -> None:
        self.add("gateway", {"event": event, **fields})

    def unforeseen(self, error: Exception, **fields: Any) -> None:
        """Logs an unforeseen error of ours: its place in the code, not its text, which may hold a prompt."""
        places = [
            f"{frame.filename}:{frame.lineno} {frame.name}" for frame in traceback.extract_tb(error.__traceback__)
        ]
        self.event("error", error=type(error).__name__, places=places[-8:], **fields)

    def reopen(self) -> None:
        """For log rotation: later lines go to a new file of that name."""
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
            # A full disk must not end the service; the lost lines are counted.
            self.num_dropped += len(lines)

    def _open_again(self) -> None:
        if self._file is None:
            return
        with suppress(InvalidInput):
            descriptor = self._open()
            os.close(self._descriptor)
            self._descriptor = descriptor


def _line(line: dict[str, Any]) -> str:
    """One JSON line with invisible characters escaped, so that a terminal shows what was written.

    Most lines are visible ASCII; checking every character of them would cost a tenth of a request.
    """
    text = _ENCODE(line)
    return text if text.isascii() and "\x7f" not in text else json_visible(text)
