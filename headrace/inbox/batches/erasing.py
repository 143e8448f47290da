"""What an erasure takes of a service's clients' files and batches: all of a client's, or single lines.

A client's files and batches go by their names, which the erasure lists: what the client sends later is new. A single
line, by its `custom_id`, goes out of its input file, where an empty line of the same length stays (a batch divides its
file by offsets and by the number of its lines), and out of the outcomes of every batch of that file.

A gateway that works at such a batch holds a lease, sees the erasure and stops; who begins later leaves the line out
(`headrace.serving.gateway.batches.job`). The erasure waits for the leases, so nothing of it is written behind it.
"""

import hashlib
from collections.abc import Iterable, Iterator
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field, replace

from headrace.clock import Clock
from headrace.errors import ObjectMissing
from headrace.handoff.erasures import ErasedData, Erasures
from headrace.inbox.batches.files import KEPT_FILE, PIECE_BYTES, File, file_key, part_key
from headrace.inbox.batches.kept import Batches, lines_prefix, mark_key, settled_key
from headrace.inbox.batches.lines import STUB, custom_id_of
from headrace.inbox.batches.outcomes import OUTPUTS, SETTLED, Settled, Unmade, request_id, settled
from headrace.inbox.batches.places import (
    BATCH,
    FILE,
    follows_from,
    is_name,
    open_prefix,
    services_with_batches,
    tenant_prefix,
    tenants_prefix,
)
from headrace.inbox.batches.states import ERASED, Batch
from headrace.keys import digest_text, partition_from_path, partition_path
from headrace.store.leases import Leases
from headrace.store.local import LocalStore
from headrace.store.objects import ObjectStore, new_nonce
from headrace.store.small_objects import read_object, replace_object


@dataclass(frozen=True, kw_only=True)
class Client:
    """One client of one service."""

    service: str
    tenant: str

    @property
    def prefix(self) -> str:
        return tenant_prefix(self.service, self.tenant)


@dataclass
class BatchScope:
    """Names. `lines`: of a file, its name and the line's custom_id."""

    files: set[str] = field(default_factory=set)
    batches: set[str] = field(default_factory=set)
    lines: set[tuple[str, str]] = field(default_factory=set)

    def __bool__(self) -> bool:
        return bool(self.files or self.batches or self.lines)


def clients(objects: ObjectStore) -> list[Client]:
    """Of all services, those of open batches too."""
    found: list[Client] = []
    for service in services_with_batches(objects):
        names = {*objects.children(tenants_prefix(service)), *objects.children(open_prefix(service))}
        found += [Client(service=service, tenant=partition_from_path(name)) for name in sorted(names)]
    return found


def scope_of_client(objects: ObjectStore, tenant: str) -> BatchScope:
    """All of a client's, in every service."""
    scope = BatchScope()
    for client in clients(objects):
        if client.tenant == tenant:
            scope.batches |= _batch_names(objects, client)
            scope.files |= _file_names(objects, client)
    return scope


def scope_of_line(objects: ObjectStore, custom_id: str, *, batch: str) -> BatchScope:
    """The line with this custom_id, of a batch's input file; empty: there is none.

    Raises: HandoffCorrupt: the batch is damaged.
    """
    scope = BatchScope()
    for client in clients(objects):
        if batch in _batch_names(objects, client):
            for found in _batches(objects, client, [batch]):
                if custom_id in _custom_ids(objects, client, found):
                    scope.lines.add((found.input.id, custom_id))
    return scope


def scope_of_requests(objects: ObjectStore, beginning: str) -> BatchScope:
    """The lines whose request's name begins so. Reads the input file of every batch.

    Raises: HandoffCorrupt: a batch is damaged.
    """
    scope = BatchScope()
    for client in clients(objects):
        for found in _batches(objects, client, _batch_names(objects, client)):
            for custom_id in _custom_ids(objects, client, found):
                if request_id(found.id, custom_id).startswith(beginning):
                    scope.lines.add((found.input.id, custom_id))
    return scope


def erase_batches(objects: ObjectStore, clock: Clock, data: ErasedData) -> None:
    """Raises: HandoffCorrupt: something that may hold it is damaged."""
    # Another erasure waits for what this one writes, unless that is without its lines, too.
    with Leases(objects, clock).hold(new_nonce()):
        _erase(objects, data, Erasures(objects).all())


def _erase(objects: ObjectStore, data: ErasedData, everything: ErasedData) -> None:
    for client in clients(objects):
        for name in _batch_names(objects, client):
            if data.has("batch", name):
                _drop_batch(objects, client, name)
        for name in _file_names(objects, client):
            if data.has("file", name):
                _drop_file(objects, client, name)
        # Outcomes first: what they are of is found by the input file.
        for batch in _batches_with_lines(objects, client, data):
            _cut_outcomes(objects, client, batch, data, everything)
        for name in _file_names(objects, client):
            if data.has("lines", name):
                _cut_input(objects, client, name, data)
        if isinstance(objects, LocalStore):
            # Directories' names have the client's.
            for prefix in (client.prefix, f"{open_prefix(client.service)}/{partition_path(client.tenant)}"):
                objects.drop_empty_directories(prefix)


def remaining_batches(objects: ObjectStore, data: ErasedData) -> list[str]:
    """Where something of erased files, batches and lines still is, a phrase each."""
    found: list[str] = []
    for client in clients(objects):
        where = f"of {client.service}"
        found += [f"{name} {where} is kept" for name in _batch_names(objects, client) if data.has("batch", name)]
        for name in _file_names(objects, client):
            if data.has("file", name):
                found.append(f"{name} {where} is kept")
            elif data.has("lines", name) and any(_inputs_with(objects, client, name, data)):
                found.append(f"{name} {where} has lines of it")
        for batch in _batches_with_lines(objects, client, data):
            found += [f"{what} of {batch.id} has lines of it" for what in _outcomes_with(objects, client, batch, data)]
    return found


def _drop_batch(objects: ObjectStore, client: Client, name: str) -> None:
    """Its files first: their names follow from its own."""
    for file in _file_names(objects, client):
        if any(follows_from(file, FILE, name, ending) for ending in OUTPUTS):
            _drop_file(objects, client, file)
    for prefix in (lines_prefix(client.prefix, name), f"{client.prefix}/states/{name}"):
        for key in objects.list(prefix):
            objects.delete(key)
        objects.delete_prefix(prefix)
    objects.delete(mark_key(client.service, client.tenant, name))


def _drop_file(objects: ObjectStore, client: Client, name: str) -> None:
    objects.delete(file_key(client.prefix, name))
    for part in _parts(objects, client, name):
        objects.delete(part)


def _cut_input(objects: ObjectStore, client: Client, name: str, data: ErasedData) -> None:
    for part in list(_inputs_with(objects, client, name, data)):
        with suppress(ObjectMissing):
            while not _is_cut(objects, part, name, data):
                pass  # another erasure was faster


def _is_cut(objects: ObjectStore, part: str, name: str, data: ErasedData) -> bool:
    body = objects.read(part)
    lines = body.split(b"\n")
    left = [STUB.ljust(len(line)) if _is_erased(line, name, data) else line for line in lines]
    return left == lines or objects.replace(part, b"\n".join(left), of=body)


def _inputs_with(objects: ObjectStore, client: Client, name: str, data: ErasedData) -> Iterator[str]:
    """Keys of an input file's bytes with an erased line. Each is read whole: an input file has at most 200 MiB."""
    for part in _parts(objects, client, name):
        with suppress(ObjectMissing):
            if any(_is_erased(line, name, data) for line in objects.read(part).split(b"\n")):
                yield part


def _cut_outcomes(objects: ObjectStore, client: Client, batch: Batch, data: ErasedData, everything: ErasedData) -> None:
    for key, _ in _settled(objects, client, batch):
        with suppress(ObjectMissing):
            replace_object(objects, key, SETTLED, lambda made: _settled_left(made, batch, data))
    for name in filter(None, (batch.output_file, batch.error_file)):
        with suppress(ObjectMissing):
            _cut_file(objects, client, name, batch, data, everything)
        for part in _parts(objects, client, name):
            # What it was before.
            if _has_erased(objects, part, batch, data):
                objects.delete(part)


def _cut_file(
    objects: ObjectStore, client: Client, name: str, batch: Batch, data: ErasedData, everything: ErasedData
) -> None:
    """Raises: ObjectMissing: the file is gone, or lacks its part."""
    key = file_key(client.prefix, name)

    def left(file: File) -> File:
        part = part_key(client.prefix, file.part)
        if not objects.exists(part):
            raise ObjectMissing(part)
        return _file_left(objects, client, file, batch, everything) if _has_erased(objects, part, batch, data) else file

    while True:
        before, missing = read_object(objects, key, KEPT_FILE).part, None
        try:
            if replace_object(objects, key, KEPT_FILE, left):
                return
        except ObjectMissing as error:
            missing = error
        # Another erasure may have put another part in its place meanwhile.
        if read_object(objects, key, KEPT_FILE).part == before:
            if missing is not None:
                raise missing
            return


def _settled_left(made: Settled, batch: Batch, data: ErasedData) -> Settled:
    output, errors = (_left(text, batch, data) for text in (made.output, made.errors))
    num_output, num_errors = _num_ends(made.output) - _num_ends(output), _num_ends(made.errors) - _num_ends(errors)
    # Each has its outcome still, so that the batch ends with as many as it has lines.
    erased = settled(batch.id, [Unmade(custom_id="", code=ERASED)] * (num_output + num_errors))
    counts = replace(
        made.counts,
        num_completed=made.counts.num_completed - num_output,
        num_failed=made.counts.num_failed + num_output,
    )
    return Settled(counts=counts, output=output, errors=errors + erased.errors)


def _file_left(objects: ObjectStore, client: Client, file: File, batch: Batch, data: ErasedData) -> File:
    """A file of pictures may be large: what is left of it is streamed into another part, whose name follows from both.

    So whoever makes it again, after a kill or at the same time, makes the same.
    """
    old = part_key(client.prefix, file.part)
    digest = hashlib.sha256(b"".join(sorted(data.digests))).hexdigest()
    part, num_bytes, num_lines = f"{file.id}-{digest_text('left', file.part, digest)[:8]}", 0, 0
    key = part_key(client.prefix, part)
    with objects.write_part(key) if not objects.exists(key) else nullcontext() as writer:
        for line in _lines(objects, old):
            if not _is_erased(line, batch.input.id, data):
                num_bytes, num_lines = num_bytes + len(line), num_lines + 1
                if writer is not None:  # else it is there
                    writer.write(line)
    return replace(file, part=part, num_bytes=num_bytes, num_lines=num_lines)


def _outcomes_with(objects: ObjectStore, client: Client, batch: Batch, data: ErasedData) -> Iterator[str]:
    for key, made in _settled(objects, client, batch):
        if any(_left(text, batch, data) != text for text in (made.output, made.errors)):
            yield key.rpartition("/")[2]
    for name in filter(None, (batch.output_file, batch.error_file)):
        if any(_has_erased(objects, part, batch, data) for part in _parts(objects, client, name)):
            yield name


def _batches_with_lines(objects: ObjectStore, client: Client, data: ErasedData) -> Iterator[Batch]:
    """Batches of input files with erased lines, of whoever deleted the file meanwhile too."""
    names = _batch_names(objects, client)
    if names and any(data.has("lines", file) for file in _file_names(objects, client)):
        yield from (one for one in _batches(objects, client, names) if data.has("lines", one.input.id))


def _batches(objects: ObjectStore, client: Client, names: Iterable[str]) -> Iterator[Batch]:
    kept = Batches(objects, client.service)
    for name in sorted(names):
        if found := kept.find(client.tenant, name):
            yield found.batch


def _batch_names(objects: ObjectStore, client: Client) -> set[str]:
    """Also those of which a killed gateway left the mark or lines alone."""
    places = [f"{client.prefix}/states", f"{client.prefix}/lines"]
    places.append(f"{open_prefix(client.service)}/{partition_path(client.tenant)}")
    return {
        name
        for place in places
        for name in objects.children(place)
        if is_name(BATCH, name) and _is_there(objects, place, name)
    }


def _file_names(objects: ObjectStore, client: Client) -> set[str]:
    """Also those that are deleted, whose bytes are there still."""
    named = [name.removesuffix(".json") for name in objects.children(f"{client.prefix}/files")]
    named += [part.rpartition("-")[0] for part in objects.children(f"{client.prefix}/parts")]
    return {name for name in named if is_name(FILE, name)}


def _parts(objects: ObjectStore, client: Client, name: str) -> list[str]:
    prefix = f"{client.prefix}/parts"
    return [f"{prefix}/{part}" for part in objects.children(prefix) if part.rpartition("-")[0] == name]


def _custom_ids(objects: ObjectStore, client: Client, batch: Batch) -> set[str]:
    with suppress(ObjectMissing):
        body = objects.read(part_key(client.prefix, batch.input.part))
        return {found for line in body.split(b"\n") if (found := custom_id_of(line))}
    return set()


def _settled(objects: ObjectStore, client: Client, batch: Batch) -> Iterator[tuple[str, Settled]]:
    for part in sorted(Batches(objects, client.service).settled_parts(client.tenant, batch.id)):
        key = settled_key(client.prefix, batch.id, part)
        with suppress(ObjectMissing):
            yield key, read_object(objects, key, SETTLED)


def _left(text: str, batch: Batch, data: ErasedData) -> str:
    lines = text.split("\n")
    return "\n".join(line for line in lines if not _is_erased(line.encode(), batch.input.id, data))


def _num_ends(text: str) -> int:
    return text.count("\n")


def _is_erased(line: bytes, file: str, data: ErasedData) -> bool:
    """Args: file: the input file's name, of outcomes too."""
    custom_id = custom_id_of(line)
    return custom_id is not None and data.has("line", file, custom_id)


def _has_erased(objects: ObjectStore, part: str, batch: Batch, data: ErasedData) -> bool:
    return any(_is_erased(line, batch.input.id, data) for line in _lines(objects, part))


def _lines(objects: ObjectStore, part: str) -> Iterator[bytes]:
    """A part's lines with their ends, of whatever length."""
    entry = next((one for one in objects.entries(part.rpartition("/")[0]) if one.key == part), None)
    if entry is None:
        raise ObjectMissing(part)
    kept: list[bytes] = []
    for offset in range(0, entry.num_bytes, PIECE_BYTES):
        [piece] = objects.read_ranges(part, [(offset, min(PIECE_BYTES, entry.num_bytes - offset))])
        *whole, rest = bytes(piece).split(b"\n")
        for line in whole:
            yield b"".join([*kept, line, b"\n"])
            kept = []
        kept.append(rest)
    if any(kept):
        yield b"".join(kept)


def _is_there(objects: ObjectStore, place: str, name: str) -> bool:
    """Whether it is more than an empty directory."""
    return objects.exists(f"{place}/{name}") or bool(objects.list(f"{place}/{name}"))
