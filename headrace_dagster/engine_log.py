"""What engines say while a run waits for them, in that run's own log.

The library says it by Python's logging. Dagster shows such lines only where an instance's `python_logs` asks for them,
and an instance that does not would show a run that stands still.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress

_ENGINES = logging.getLogger("headrace.engines")


@contextmanager
def engines_tell(log: logging.Logger) -> Iterator[None]:
    """Until the block ends, warnings of engines are lines of this log, too."""
    handler = _Into(log)
    _ENGINES.addHandler(handler)
    try:
        yield
    finally:
        _ENGINES.removeHandler(handler)


class _Into(logging.Handler):
    def __init__(self, log: logging.Logger) -> None:
        super().__init__(logging.WARNING)
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        # It is called where an engine is asked: a line that cannot be written costs no row.
        with suppress(Exception):
            self._log.log(record.levelno, record.getMessage())
