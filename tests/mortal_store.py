"""A store whose process dies at one of its writes, in this process: many kills cost little."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from headrace.store.local import LocalPart, LocalStore


class Killed(BaseException):
    pass


class MortalStore(LocalStore):
    """Dies at one of its writes, with whoever writes: nothing is cleaned up afterwards."""

    num_left: int | None = None

    def create(self, key: str, body: bytes, *, durable: bool = True) -> bool:
        self._live()
        return super().create(key, body, durable=durable)

    def replace(self, key: str, body: bytes, *, of: bytes) -> bool:
        self._live()
        return super().replace(key, body, of=of)

    @contextmanager
    def write_part(self, key: str) -> Iterator[LocalPart]:
        self._live()
        with super().write_part(key) as part:
            yield part
            self._live()

    def delete_prefix(self, prefix: str) -> None:
        self._live()
        super().delete_prefix(prefix)

    def delete(self, key: str, *, durable: bool = True) -> None:
        self._live()
        super().delete(key, durable=durable)

    def _live(self) -> None:
        # Leases are renewed by a thread of their own.
        if self.num_left is not None and threading.current_thread() is threading.main_thread():
            self.num_left -= 1
            if self.num_left < 0:
                raise Killed
