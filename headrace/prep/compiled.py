"""How the inner loops of data prep are compiled, and what all of them use.

numba keeps what it compiled, and compiles a function anew only if the function's own file has changed. So each file
that uses this one names its digest in `BUILT_WITH`, and a test compares: after a change here, change it there.
"""

from collections.abc import Callable
from typing import Any

import numba
import numpy as np

PRIME, HALF = np.uint64(0x9FB21C651E98DF25), np.uint64(32)
_MIX = np.uint64(0xD6E8FEB86659FD93)


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    try:
        return numba.njit(cache=True, nogil=True)(function)
    except RuntimeError:  # no folder for the compiled function: seconds at each start
        return numba.njit(nogil=True)(function)


@compiled
def mixed(value: np.uint64) -> np.uint64:
    value = (value ^ (value >> HALF)) * _MIX
    return value ^ (value >> HALF)


@compiled
def decoded(data: np.ndarray, at: int) -> Any:
    """The code point that begins there, and where the next one does; Arrow has checked that it is UTF-8."""
    byte = np.int64(data[at])
    if byte < 0x80:
        return byte, at + 1
    if byte < 0xE0:
        return ((byte & 0x1F) << 6) | (data[at + 1] & 0x3F), at + 2
    if byte < 0xF0:
        return ((byte & 0x0F) << 12) | (np.int64(data[at + 1] & 0x3F) << 6) | (data[at + 2] & 0x3F), at + 3
    code = ((byte & 0x07) << 18) | (np.int64(data[at + 1] & 0x3F) << 12)
    return code | (np.int64(data[at + 2] & 0x3F) << 6) | (data[at + 3] & 0x3F), at + 4
