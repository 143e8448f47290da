"""How the inner loops of data prep are compiled: once a machine, where there is a folder for it.

numba compiles a function anew only if the function's own file has changed, so a compiled function calls none of another
file.
"""

from collections.abc import Callable
from typing import Any

import numba


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    try:
        return numba.njit(cache=True, nogil=True)(function)
    except RuntimeError:  # no folder for the compiled function: seconds at each start
        return numba.njit(nogil=True)(function)
