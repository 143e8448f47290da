"""What decoders do with the worst of files, for processes that import little."""

import os
import signal

from headrace.prep.images.preparation import Preparation, Prepared

MEMORY = 2**30


def planted(body: bytes) -> str:
    if body == b"killer":
        os.kill(os.getpid(), signal.SIGSEGV)
    if body == b"glutton":
        try:
            return str(len(bytearray(16 * MEMORY)))
        except MemoryError:
            return "too much"
    return body.decode().upper()


def own_pid(body: bytes) -> int:
    return os.getpid()


class PlantedPreparation(Preparation):
    def __call__(self, body: bytes) -> Prepared | str:
        if body == b"killer":
            os.kill(os.getpid(), signal.SIGSEGV)
        return super().__call__(body)
