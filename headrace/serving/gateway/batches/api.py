"""`/v1/files` and `/v1/batches` as OpenAI's clients know them. See docs/batches.md.

Each API key sees its own files and batches; those of others do not exist for it.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from headrace.clock import Clock
from headrace.errors import IllegalTransition, StoreUnavailable, Transient, text_of
from headrace.inbox.batches import states
from headrace.inbox.batches.files import PIECE_BYTES, File, Files, NewFile
from headrace.inbox.batches.kept import Batches, CountsSoFar, Kept
from headrace.inbox.batches.lines import FILE_BYTES_MAX
from headrace.inbox.batches.places import BATCH, FILE, new_name
from headrace.inbox.batches.states import Batch, Counts
from headrace.serving.daemon_threads import DaemonThreads
from headrace.serving.gateway.batches.pages import listed, page_of
from headrace.serving.gateway.batches.upload import FormReader
from headrace.serving.gateway.batches.work import BatchWork
from headrace.serving.gateway.body_fields import encodable, object_of, wrong
from headrace.serving.gateway.byte_room import SharedRoom
from headrace.serving.gateway.http_messages import Request, json_body
from headrace.serving.gateway.refusals import Refusal, invalid, not_ready, overloaded

Handler = Callable[[Request], Awaitable[None]]
T = TypeVar("T")
# Of a form around its file.
_FORM_BYTES_MAX = 64 * 1024
# Uploads that are read at once, and those of one client; each has a piece in memory, and one on its way to the store.
_UPLOADS_AT_ONCE, _ONES_UPLOADS, _WAITING_SECONDS_MAX = 8, 6, 10.0
# Of one API key, input and output files together.
_BYTES_KEPT_MAX = 20 * 2**30
_NUM_OPEN_MAX = 100
# Of a page without a limit: each is read from the store. Clients go on by themselves.
_NUM_FILES = 100
_NUM_THREADS = 8
_BODY_BYTES_MAX = 64 * 1024
# Up to seven days.
WINDOW_PATTERN = "(([1-9]|[1-9][0-9]|1[0-5][0-9]|16[0-8])h|[1-9][0-9]{0,3}m|[1-7]d)"
_WINDOW = re.compile(WINDOW_PATTERN)
_UNITS = {"m": 60, "h": 3_600, "d": 86_400}
EXPIRY_SECONDS = (3_600, 30 * 86_400)
NUM_METADATA_MAX, KEY_CHARACTERS_MAX, VALUE_CHARACTERS_MAX = 16, 64, 512
_RETRY_SECONDS_MAX = 3_600.0
_JSONL = (b"content-type", b"application/jsonl")


@dataclass(frozen=True, kw_only=True)
class BatchOffer:
    """`endpoints`: those of the service whose requests may be lines. `days`: how long files are kept."""

    endpoints: tuple[str, ...]
    days: float


class BatchApi:
    def __init__(
        self, offer: BatchOffer, kept: Batches, files: Files, counts: CountsSoFar, work: BatchWork, *, clock: Clock
    ) -> None:
        self._offer, self._kept, self._files, self._counts = offer, kept, files, counts
        self._work, self._clock = work, clock
        # Of its own: a client does not wait for the reading of others' batches.
        self._threads = DaemonThreads(_NUM_THREADS, "batch-api")
        self._room = SharedRoom(_UPLOADS_AT_ONCE, _WAITING_SECONDS_MAX, one_bytes_max=_ONES_UPLOADS)

    def route(self, path: str) -> tuple[tuple[str, ...], Handler] | None:
        """The methods of a path and who answers it; None: the path is not ours."""
        match path.removeprefix("/v1/").split("/"):
            case ["files"]:
                return ("GET", "POST", "HEAD"), self._files_page
            case ["files", name]:
                return ("GET", "DELETE", "HEAD"), partial(self._one_file, name=name)
            case ["files", name, "content"]:
                return ("GET", "HEAD"), partial(self._content, name=name)
            case ["batches"]:
                return ("GET", "POST", "HEAD"), self._batches_page
            case ["batches", name]:
                return ("GET", "HEAD"), partial(self._one_batch, name=name)
            case ["batches", name, "cancel"]:
                return ("POST",), partial(self._cancel, name=name)
        return None

    async def _files_page(self, request: Request) -> None:
        if request.method == "POST":
            await self._upload(request)
            return
        page = page_of(request.query, limit=_NUM_FILES, limit_max=10_000)
        purpose, key = page.others.get("purpose"), _key(request)

        def read(name: str) -> dict[str, Any] | None:
            file = self._files.find(key, name)
            return _file_body(file) if file and purpose in (None, file.purpose) else None

        body = await self._call(lambda: listed(self._files.names(key), page, read))
        await request.respond(200, json_body(body), request.answer_headers)

    async def _upload(self, request: Request) -> None:
        reader = FormReader(request.headers.get(b"content-type", b""))
        bytes_max = FILE_BYTES_MAX + _FORM_BYTES_MAX
        request.connection.expect_body(bytes_max)
        key, now = _key(request), self._clock.now()
        async with self._room.room_of(key, 1):
            if await self._call(self._files.num_bytes_kept, key) > _BYTES_KEPT_MAX:
                message = f"This API key keeps more than {_BYTES_KEPT_MAX >> 30} GiB of files here; delete some first."
                raise Refusal(413, message, code="storage_exceeded")
            new = await self._call(self._files.new, key, new_name(FILE, now))
            try:
                num_pieces = 0
                async for part in request.body_parts(bytes_max):
                    reader.feed(part)
                    num_pieces += len(part)
                    if num_pieces >= PIECE_BYTES:
                        num_pieces = 0
                        await self._call(new.write, reader.form.take())
                        # Not before: the client does not answer for the store's slowness.
                        request.connection.body_goes_on()
                reader.end()
                await self._call(new.write, reader.form.take())
                file = await self._seal(reader, new, int(now))
            finally:
                await self._call(new.discard)
        await request.respond(200, json_body(_file_body(file)), request.answer_headers)

    async def _seal(self, reader: FormReader, new: NewFile, now: int) -> File:
        fields = reader.form.fields
        if fields.get("purpose") != "batch":
            raise invalid("purpose must be batch: files are kept here for batches alone.", param="purpose")
        if reader.form.filename is None or not new.num_bytes:
            raise invalid("The form has no file, or an empty one.", param="file")
        if new.num_bytes > FILE_BYTES_MAX:
            raise Refusal(413, f"A file may have {FILE_BYTES_MAX:,} bytes.", param="file", code="request_too_large")
        seconds = self._expiry(
            fields.get("expires_after[anchor]"), fields.get("expires_after[seconds]"), "expires_after"
        )
        sealing = partial(new.seal, reader.form.filename, "batch", created_at=now, expires_at=now + seconds)
        return await self._call(sealing)

    async def _one_file(self, request: Request, *, name: str) -> None:
        file = await self._file(request, name)
        if request.method != "DELETE":
            await request.respond(200, json_body(_file_body(file)), request.answer_headers)
            return
        await self._call(self._files.delete, _key(request), file.id)
        body = {"id": file.id, "object": "file", "deleted": True}
        await request.respond(200, json_body(body), request.answer_headers)

    async def _content(self, request: Request, *, name: str) -> None:
        file, key = await self._file(request, name), _key(request)

        async def pieces() -> AsyncIterator[bytes]:
            for offset in range(0, file.num_bytes, PIECE_BYTES):
                num_bytes = min(PIECE_BYTES, file.num_bytes - offset)
                piece = await self._call(self._files.read, key, file, offset, num_bytes)
                # Each once its client has taken the one before.
                for start in range(0, len(piece), 65_536):
                    yield piece[start : start + 65_536]

        await request.respond_pieces(pieces(), file.num_bytes, request.answer_headers, kind=_JSONL)

    async def _file(self, request: Request, name: str) -> File:
        if (file := await self._call(self._files.find, _key(request), name)) is None:
            raise Refusal(404, f"No such File object: {name[:64]}", param="id", code="file_not_found")
        return file

    async def _batches_page(self, request: Request) -> None:
        if request.method == "POST":
            await self._create(request)
            return
        page, key = page_of(request.query, limit=20, limit_max=100), _key(request)

        def read(name: str) -> dict[str, Any] | None:
            kept = self._kept.find(key, name)
            return self._batch_body(kept) if kept else None

        body = await self._call(lambda: listed(self._kept.names(key), page, read))
        await request.respond(200, json_body(body), request.answer_headers)

    async def _create(self, request: Request) -> None:
        wanted, key = object_of(await request.body(_BODY_BYTES_MAX)), _key(request)
        endpoint = wanted.get("endpoint")
        if endpoint not in self._offer.endpoints:
            raise invalid(f"endpoint must be {' or '.join(self._offer.endpoints)}.", param="endpoint")
        name = wanted.get("input_file_id")
        if not isinstance(name, str):
            raise wrong("input_file_id", "the id of a file", name)
        window = wanted.get("completion_window")
        seconds = _window_seconds(window)
        metadata = _metadata(wanted.get("metadata"))
        output = wanted.get("output_expires_after")
        if output is not None and not isinstance(output, dict):
            raise wrong("output_expires_after", "an object with anchor and seconds", output)
        output = output or {}
        output_seconds = self._expiry(output.get("anchor"), output.get("seconds"), "output_expires_after")
        file = await self._call(self._files.find, key, name)
        if file is None:
            raise Refusal(404, f"No such File object: {name[:64]}", param="input_file_id", code="file_not_found")
        if file.purpose != "batch":
            raise invalid(f"The file {file.id} is a batch's output, and no batch.", param="input_file_id")
        await self._check_room(key, file, seconds)
        now = self._clock.now()
        batch = Batch(
            id=new_name(BATCH, now),
            endpoint=endpoint,
            input=file,
            window=str(window),
            metadata=metadata,
            created_at=int(now),
            expires_at=int(now) + seconds,
            output_seconds=output_seconds,
        )
        kept = await self._call(self._kept.create, key, batch)
        self._work.look(kept)
        await self._respond(request, kept)

    async def _check_room(self, key: str, file: File, seconds: int) -> None:
        """Raises: Refusal: 429, a batch would have to wait for longer than its window, or the key has too many."""
        num_open = sum(one[0] == key for one in await self._call(self._kept.open))
        if num_open >= _NUM_OPEN_MAX:
            message = f"This API key has {num_open} batches that have not ended; wait for some of them."
            raise overloaded(message, retry_after_seconds=60.0)
        takes = self._work.backlog_seconds(file.num_lines)
        if takes is not None and takes > seconds:
            message = (
                f"The lines that wait and those of this file take about {takes:.0f} s, longer than the window of "
                f"{seconds} s; come back later, or give it a longer one."
            )
            raise overloaded(message, retry_after_seconds=min(max(takes - seconds, 1.0), _RETRY_SECONDS_MAX))

    async def _one_batch(self, request: Request, *, name: str) -> None:
        await self._respond(request, await self._batch(request, name))

    async def _cancel(self, request: Request, *, name: str) -> None:
        kept = await self._batch(request, name)
        while True:
            try:
                wanted = states.cancelled(kept.batch, int(self._clock.now()))
            except IllegalTransition:
                message = f"Cannot cancel a batch with status {kept.batch.status!r}."
                raise Refusal(409, message, code="invalid_status") from None
            if wanted == kept.batch:
                break
            kept = await self._call(self._kept.advance, kept, wanted)
            if kept.batch == wanted:
                break
        self._work.look(kept)
        await self._respond(request, kept)

    async def _batch(self, request: Request, name: str) -> Kept:
        if (kept := await self._call(self._kept.find, _key(request), name)) is None:
            raise Refusal(404, f"No batch found with id {name[:64]!r}.", param="id", code="batch_not_found")
        return kept

    async def _respond(self, request: Request, kept: Kept) -> None:
        body = await self._call(self._batch_body, kept)
        await request.respond(200, json_body(body), request.answer_headers)

    def _batch_body(self, kept: Kept) -> dict[str, Any]:
        batch = kept.batch
        is_making = batch.status in ("in_progress", "cancelling")
        return _batch_body(batch, self._counts.of(kept.tenant, batch.id) if is_making else batch.counts)

    def _expiry(self, anchor: object, seconds: object, param: str) -> int:
        """Seconds that a file is kept, at most as long as the gateway keeps any. Raises: Refusal."""
        usual = int(self._offer.days * 86_400)
        if anchor is None and seconds is None:
            return usual
        if isinstance(seconds, str) and seconds.isascii() and seconds.isdecimal() and len(seconds) < 9:
            seconds = int(seconds)
        low, high = EXPIRY_SECONDS
        if anchor != "created_at" or type(seconds) is not int or not low <= seconds <= high:
            raise invalid(f"{param} must have the anchor created_at and seconds from {low} to {high}.", param=param)
        return min(seconds, usual)

    async def _call(self, call: Callable[..., T], *arguments: object) -> T:
        """In a thread, since stores take their time. Raises: Refusal: the store does not answer."""
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, partial(call, *arguments))
        except (StoreUnavailable, Transient) as error:
            message = "The store of files and batches does not answer now; send the request again later."
            raise not_ready(message, code="store_unavailable", detail=text_of(error)) from error


def _key(request: Request) -> str:
    assert request.key is not None, "the path needs a key"
    return request.key


def _file_body(file: File) -> dict[str, Any]:
    return {
        "id": file.id,
        "object": "file",
        "bytes": file.num_bytes,
        "created_at": file.created_at,
        "expires_at": file.expires_at,
        "filename": file.filename,
        "purpose": file.purpose,
        "status": "processed",
        "status_details": None,
    }


def _batch_body(batch: Batch, counts: Counts) -> dict[str, Any]:
    problems = [
        {"code": one.code, "message": one.message, "line": one.line, "param": one.param} for one in batch.problems
    ]
    return {
        "id": batch.id,
        "object": "batch",
        "endpoint": batch.endpoint,
        "errors": {"object": "list", "data": problems} if problems else None,
        "input_file_id": batch.input.id,
        "completion_window": batch.window,
        "status": batch.status,
        "output_file_id": batch.output_file,
        "error_file_id": batch.error_file,
        "created_at": batch.created_at,
        "in_progress_at": batch.in_progress_at,
        "expires_at": batch.expires_at,
        "finalizing_at": batch.finalizing_at,
        "completed_at": batch.completed_at,
        "failed_at": batch.failed_at,
        "expired_at": batch.expired_at,
        "cancelling_at": batch.cancelling_at,
        "cancelled_at": batch.cancelled_at,
        "request_counts": {
            "total": batch.num_lines,
            "completed": counts.num_completed,
            "failed": counts.num_failed,
        },
        "metadata": batch.metadata,
    }


def _window_seconds(window: object) -> int:
    if not isinstance(window, str) or not _WINDOW.fullmatch(window):
        raise invalid(
            "completion_window must be 24h, or another number of minutes (m), hours (h) or days (d) up to 7d.",
            param="completion_window",
        )
    return int(window[:-1]) * _UNITS[window[-1]]


def _metadata(value: object) -> dict[str, str] | None:
    if value is None:
        return None
    if (
        not isinstance(value, dict)
        or len(value) > NUM_METADATA_MAX
        or not all(
            isinstance(text, str) and len(name) <= KEY_CHARACTERS_MAX and len(text) <= VALUE_CHARACTERS_MAX
            for name, text in value.items()
        )
    ):
        raise invalid(
            f"metadata must be an object of at most {NUM_METADATA_MAX} texts, with keys of {KEY_CHARACTERS_MAX} and "
            f"values of {VALUE_CHARACTERS_MAX} characters.",
            param="metadata",
        )
    return {encodable("metadata", name): encodable("metadata", text) for name, text in value.items()}
