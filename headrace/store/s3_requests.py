"""Requests to an S3 server: repeated while trouble may pass, then refused in one sentence.

obstore repeats what is safe to repeat. The requests that it gives up (a conditional put whose reply was lost, a body
that broke off) are started again here, within the same patience.
"""

import functools
import os
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError
from obstore.store import S3Store as Client

from headrace.errors import HeadraceError, ObjectMissing, StoreOutage, StoreRefused, StoreUnavailable
from headrace.store.refusals import is_lasting, s3_reason

if TYPE_CHECKING:
    from obstore import GetOptions

T = TypeVar("T")

# Received bytes are passed on in pieces of about this size: they fit the CPU's cache, and are few enough for Python.
_STREAM_BYTES = 1024 * 1024
_FIRST_PAUSE_SECONDS = 0.1
_LONGEST_PAUSE_SECONDS = 5.0


# obstore's threads do not survive a fork: a forked child that uses them waits forever.
_used = False
_forked_after_use = False


def _note_fork() -> None:
    global _forked_after_use
    _forked_after_use = _forked_after_use or _used


os.register_at_fork(after_in_child=_note_fork)


class RangeBeyondEnd(HeadraceError):
    """The object ends before the range begins."""


class S3Requests:
    """`options`: obstore's S3 configuration, over the environment's AWS_* variables."""

    def __init__(
        self, bucket: str, options: dict[str, Any], *, patience_seconds: float, request_seconds: float
    ) -> None:
        self._patience_seconds = patience_seconds
        # obstore reads the other AWS_* variables itself. It ignores these two beside client options, and does not
        # report them.
        settings: dict[str, Any] = {"allow_http": os.environ.get("AWS_ALLOW_HTTP", "false")} | options
        self.endpoint = str(
            options.get("endpoint")
            or os.environ.get("AWS_ENDPOINT_URL")
            or os.environ.get("AWS_ENDPOINT")
            or f"S3 in {options.get('region') or os.environ.get('AWS_REGION') or 'us-east-1'}"
        )
        self.client = Client(
            bucket,
            client_options={
                "timeout": timedelta(seconds=request_seconds),
                "connect_timeout": timedelta(seconds=5),
                "allow_http": str(settings.pop("allow_http")).lower() in {"true", "1", "yes"},
            },
            retry_config={
                "max_retries": 1000,  # the time limits them
                "retry_timeout": timedelta(seconds=patience_seconds),
                "backoff": {
                    "init_backoff": timedelta(seconds=_FIRST_PAUSE_SECONDS),
                    "max_backoff": timedelta(seconds=_LONGEST_PAUSE_SECONDS),
                    "base": 2,
                },
            },
            **settings,
        )
        self._bucket_seen = False

    def send(self, uri: str, request: Callable[[], T]) -> T:
        """Returns what `request` returns, after repeats if need be.

        Raises:
            ObjectMissing, RangeBeyondEnd
            AlreadyExistsError: as obstore raises it.
            StoreRefused: the server refuses, and will again. StoreOutage: the trouble outlasted the patience.
        """
        self.check_process(uri)
        for pause in self._pauses():
            try:
                return request()
            except FileNotFoundError as error:
                self._check_bucket(uri, str(error))
                raise ObjectMissing(f"{uri} does not exist.") from None
            except AlreadyExistsError as error:
                if "ConditionalRequestConflict" not in str(error):  # otherwise S3 has not decided between two writers
                    raise
                self._give_up_or_wait(uri, error, pause)
            except BaseError as error:
                if "416 Range" in str(error):
                    raise RangeBeyondEnd(uri) from None
                if "403 Forbidden" in str(error) and "<Code>" not in str(error):  # a reply to a HEAD gives no reason
                    self._ask_for_the_bucket(uri)
                self._give_up_or_wait(uri, error, pause)
        raise AssertionError("pauses never end")

    def stream(self, uri: str, path: str, offset: int, num_bytes: int) -> Iterator[memoryview]:
        """Yields the bytes as they arrive; fewer if the object ends early. Resumes after a break where it stopped."""
        end = offset + num_bytes
        for pause in self._pauses():
            span: GetOptions = {"range": (offset, end)}
            try:
                body = self.send(uri, functools.partial(obstore.get, self.client, path, options=span))
                for chunk in body.stream(min_chunk_size=_STREAM_BYTES):
                    view = memoryview(chunk)
                    offset += len(view)
                    yield view
            except RangeBeyondEnd:
                return
            except BaseError as error:
                self._give_up_or_wait(uri, error, pause)
            else:
                return

    def check_process(self, uri: str) -> None:
        """Raises: StoreRefused: this process was forked from one that had used S3."""
        global _used
        if _forked_after_use:
            raise StoreRefused(
                f"Store cannot serve {uri}: this process was forked from one that had used S3, whose threads it does "
                "not have. Start it with the method spawn or forkserver, or fork before the first use."
            )
        _used = True

    def refusal(self, uri: str, message: str) -> StoreUnavailable:
        """The error to raise: a lasting one, or one worth a retry."""
        kind = StoreRefused if is_lasting(message) else StoreOutage
        return kind(f"Store cannot serve {uri}: {s3_reason(message, endpoint=self.endpoint)}.")

    def _pauses(self) -> Iterator[float | None]:
        """Seconds to wait before another try; None: the patience is exhausted."""
        deadline, pause = time.monotonic() + self._patience_seconds, _FIRST_PAUSE_SECONDS
        while True:
            yield pause if time.monotonic() + pause < deadline else None
            pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)

    def _give_up_or_wait(self, uri: str, error: Exception, pause: float | None) -> None:
        if pause is None or is_lasting(str(error)):
            raise self.refusal(uri, str(error)) from error
        time.sleep(pause)

    def _check_bucket(self, uri: str, message: str) -> None:
        """Tells a missing bucket from a missing object, which the reply to a HEAD does not."""
        if "NoSuchBucket" in message:
            raise self.refusal(uri, message)
        if not self._bucket_seen and "NoSuchKey" not in message:
            self._ask_for_the_bucket(uri)
        self._bucket_seen = True

    def _ask_for_the_bucket(self, uri: str) -> None:
        try:
            obstore.list(self.client, "0", chunk_size=1).collect()
        except (BaseError, FileNotFoundError) as error:
            raise self.refusal(uri, str(error)) from error
