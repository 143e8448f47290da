import json
import os
import resource
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from headrace.clock import FixedClock
from headrace.errors import HandoffCorrupt, HandoffMissing, InvalidInput, StoreUnavailable
from headrace.handoff.manifest import Manifest
from headrace.handoff.parts import BATCH_BYTES, write_parts
from headrace.handoff.versions import Handoff, HandoffStore
from headrace.store.local import LocalStore
from headrace.store.objects import canonical_json

ASSET, PARTITION = "generated_content", "2026-11-22|glossary-03"
MADE_BY: dict[str, Any] = {"code_version": "1", "run_id": "run-1"}


def make_table(start: int = 0, num_rows: int = 100) -> pa.Table:
    numbers = range(start, start + num_rows)
    return pa.table({"number": list(numbers), "text": [f"row {number}" for number in numbers]})


def damage(path: Path, *, at: int) -> None:
    state = path.stat()
    path.chmod(0o644)
    body = bytearray(path.read_bytes())
    body[at] ^= 1
    path.write_bytes(body)
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))


def manifest_path(store: LocalStore, handoff: Handoff) -> Path:
    (path,) = store.directory.glob(f"handoff/*/*/v{handoff.version:06d}/manifest.json")
    return path


def test_what_was_published_reads_back_with_its_provenance(handoffs: HandoffStore) -> None:
    published = handoffs.publish(
        ASSET,
        PARTITION,
        make_table(),
        code_version="7",
        run_id="run-1",
        input_versions={"prompts[a]": "v1"},
        attributes={"claim": "c1"},
    )
    handoff = handoffs.open(ASSET, PARTITION)
    assert handoff == published
    assert handoff.table().equals(make_table())
    assert (handoff.asset, handoff.partition, handoff.version, handoff.num_rows) == (ASSET, PARTITION, 1, 100)
    assert handoff.manifest.input_versions == {"prompts[a]": "v1"}
    assert handoff.manifest.created_at == "2025-10-09T08:53:20Z"
    assert handoff.manifest.code_version == "7"
    assert handoff.attributes == {"claim": "c1"}
    handoff.verify()


def test_columns_can_be_picked(handoffs: HandoffStore) -> None:
    handoff = handoffs.publish(ASSET, PARTITION, make_table(), **MADE_BY)
    assert handoff.table(["text"]).schema.names == ["text"]
    assert handoff.polars(["number"]).columns == ["number"]
    assert handoff.lazy().collect().height == 100
    assert handoff.head(3).num_rows == 3


def test_the_same_content_is_not_sealed_twice(handoffs: HandoffStore, store: LocalStore) -> None:
    first = handoffs.publish(ASSET, PARTITION, make_table(), **MADE_BY)
    before = store.list("handoff")
    again = handoffs.publish(
        ASSET,
        PARTITION,
        iter(make_table().to_batches(max_chunksize=7)),
        schema=make_table().schema,
        code_version="2",
        run_id="run-2",
    )
    assert again.reused
    assert not first.reused
    assert again.manifest == first.manifest
    assert store.list("handoff") == before


def test_other_content_or_other_attributes_are_the_next_version(handoffs: HandoffStore) -> None:
    for rows, claim in [(0, "c1"), (1, "c1"), (1, "c2"), (0, "c1")]:
        assert not handoffs.publish(ASSET, PARTITION, make_table(rows), attributes={"claim": claim}, **MADE_BY).reused
    assert handoffs.versions(ASSET, PARTITION) == [1, 2, 3, 4]
    assert handoffs.open(ASSET, PARTITION, 2).table().equals(make_table(1))
    assert handoffs.open(ASSET, PARTITION).version == 4


def test_a_version_is_found_by_its_attributes(handoffs: HandoffStore) -> None:
    for number, claim in enumerate(["c1", "c2", "c1", "c3"]):
        handoffs.publish(ASSET, PARTITION, make_table(number), attributes={"claim": claim, "set": "s"}, **MADE_BY)
    found = handoffs.find(ASSET, PARTITION, claim="c1", set="s")
    assert found
    assert found.version == 3
    assert handoffs.find(ASSET, PARTITION, claim="c9") is None
    assert handoffs.find(ASSET, "elsewhere", claim="c1") is None


def test_a_missing_version_says_what_to_materialize(handoffs: HandoffStore) -> None:
    assert handoffs.newest(ASSET, PARTITION) is None
    handoffs.publish(ASSET, PARTITION, make_table(), **MADE_BY)
    with pytest.raises(HandoffMissing, match=r"No sealed handoff clean_documents\[shard-03\] in file:.*there: none.*"):
        handoffs.open("clean_documents", "shard-03")
    with pytest.raises(HandoffMissing, match=r"v2 in .*there: v1\)\. Materialize generated_content, partition 2026"):
        handoffs.open(ASSET, PARTITION, 2)


def test_partitions_are_those_with_a_sealed_version(handoffs: HandoffStore, store: LocalStore) -> None:
    for partition in ("shard-01", "a/b", ".."):
        handoffs.publish("team/docs", partition, make_table(), **MADE_BY)
    with store.write_part("handoff/team%2Fdocs/shard-02/parts/n/part-00000.arrow") as part:
        part.write(b"of a writer that was killed")
    assert handoffs.partitions("team/docs") == ["..", "a/b", "shard-01"]
    assert handoffs.partitions("docs") == []


def test_a_stream_that_fails_half_way_leaves_nothing(handoffs: HandoffStore, store: LocalStore) -> None:
    def batches() -> Iterator[pa.RecordBatch]:
        body = pa.py_buffer(bytes(BATCH_BYTES))  # large enough to be written before the next one is asked for
        yield pa.record_batch({"number": pa.Array.from_buffers(pa.int64(), BATCH_BYTES // 8, [None, body])})
        assert list((store.directory / ".tmp").iterdir())
        raise ConnectionError("the source went away")

    with pytest.raises(ConnectionError, match="the source went away"):
        handoffs.publish(ASSET, PARTITION, batches(), schema=pa.schema([("number", pa.int64())]), **MADE_BY)
    assert store.list("handoff") == []
    assert not list((store.directory / ".tmp").iterdir())


@pytest.mark.parametrize(
    ("rows", "schema", "refusal"),
    [
        (iter(()), None, "needs its schema beside it"),
        (make_table(), pa.schema([("number", pa.int64())]), "text: not in the schema"),
        (make_table(), pa.schema([("number", pa.int32()), ("text", pa.string())]), "number: got int64, wanted int32"),
        (
            pa.table({"a": pa.array([1, None])}),
            pa.schema([pa.field("a", pa.int64(), nullable=False)]),
            "Column a may hold no null, got 1 in 2 rows",
        ),
        (pa.table({"a": pa.array(["x"]).dictionary_encode()}), None, "Cast it to plain values"),
    ],
    ids=["no schema", "surplus column", "other type", "null where none may be", "dictionary"],
)
def test_rows_that_do_not_fit_are_refused(handoffs: HandoffStore, rows: object, schema: object, refusal: str) -> None:
    with pytest.raises(InvalidInput, match=refusal):
        handoffs.publish(ASSET, PARTITION, rows, schema=schema, **MADE_BY)  # pyright: ignore[reportArgumentType]
    assert handoffs.versions(ASSET, PARTITION) == []


def test_no_rows_still_have_a_schema(handoffs: HandoffStore) -> None:
    handoff = handoffs.publish(ASSET, PARTITION, iter(()), schema=make_table().schema, **MADE_BY)
    assert handoff.num_rows == 0
    assert handoff.table().equals(make_table().slice(0, 0))
    assert handoff.schema == make_table().schema


def test_a_large_handoff_is_several_files_and_one_content(store: LocalStore, handoffs: HandoffStore) -> None:
    table = make_table(num_rows=20_000)
    batches = table.to_batches(max_chunksize=100)
    parts = write_parts(store, "parts/n", table.schema, batches, batch_bytes=20_000, part_bytes=100_000)
    assert len(parts.parts) > 3
    assert parts.num_rows == 20_000
    assert parts.content_digest == handoffs.publish(ASSET, PARTITION, table, **MADE_BY).content_digest
    files = [pa.ipc.open_file(store.local_path(part.key)) for part in parts.parts]
    assert pa.concat_tables(file.read_all() for file in files).equals(table)
    # Small batches are joined: per-batch costs would make a table of tiny chunks slow in every reader.
    assert sum(file.num_record_batches for file in files) < 30


@pytest.mark.parametrize("at", [8, 500, -600, -20], ids=["header", "body", "footer", "end"])
def test_a_flipped_bit_in_a_part_is_found_before_anybody_reads_it(handoffs: HandoffStore, at: int) -> None:
    handoff = handoffs.publish(ASSET, PARTITION, make_table(), **MADE_BY)
    assert handoff.table().num_rows == 100  # verified once: the flip comes after
    damage(handoff.paths[0], at=at)
    expected = (
        r"Handoff generated_content\[2026-11-22\|glossary-03\] v1 does not match its manifest: part-00000\.arrow has "
        r"digest \w{8}…, manifest says \w{8}…\. Materialize"
    )
    with pytest.raises(HandoffCorrupt, match=expected):
        handoff.verify()
    with pytest.raises(HandoffCorrupt, match=expected):
        handoffs.open(ASSET, PARTITION).table()


def test_a_torn_or_a_missing_part_is_found(handoffs: HandoffStore) -> None:
    handoff = handoffs.publish(ASSET, PARTITION, make_table(), **MADE_BY)
    path = handoff.paths[0]
    body = path.read_bytes()
    path.unlink()
    with pytest.raises(HandoffCorrupt, match=r"part-00000\.arrow is missing"):
        handoff.table()
    path.write_bytes(body[:-1])
    with pytest.raises(HandoffCorrupt, match=f"has {len(body) - 1} bytes, manifest says {len(body)}"):
        handoff.table()


def test_publishing_damaged_content_again_repairs_it_as_a_new_version(handoffs: HandoffStore) -> None:
    first = handoffs.publish(ASSET, PARTITION, make_table(), **MADE_BY)
    damage(first.paths[0], at=500)
    second = handoffs.publish(ASSET, PARTITION, make_table(), **MADE_BY)
    assert (second.reused, second.version) == (False, 2)
    assert second.content_digest == first.content_digest
    assert handoffs.open(ASSET, PARTITION).table().equals(make_table())


@pytest.mark.parametrize("how", ["flipped", "torn", "format"])
def test_a_damaged_manifest_is_named_and_the_next_version_repairs_it(
    handoffs: HandoffStore, store: LocalStore, how: str
) -> None:
    first = handoffs.publish(ASSET, PARTITION, make_table(), **MADE_BY)
    path = manifest_path(store, first)
    text = path.read_text()
    changed = {
        "flipped": text.replace('"num_rows":100', '"num_rows":101'),
        "torn": text[:-1],
        "format": json.dumps([]),
    }
    path.unlink()
    path.write_text(changed[how])
    with pytest.raises(HandoffCorrupt, match=r"Manifest file://.*v000001/manifest\.json .*Materialize the partition"):
        handoffs.open(ASSET, PARTITION)
    assert handoffs.publish(ASSET, PARTITION, make_table(), **MADE_BY).version == 2
    assert handoffs.open(ASSET, PARTITION).version == 2


def test_a_manifest_of_a_newer_headrace_is_not_guessed_at(handoffs: HandoffStore, store: LocalStore) -> None:
    published = handoffs.publish(ASSET, PARTITION, make_table(), **MADE_BY)
    body = Manifest(**{**vars(published.manifest), "format_version": 2}).to_body()
    path = manifest_path(store, published)
    path.unlink()
    path.write_bytes(canonical_json(body))
    with pytest.raises(HandoffCorrupt, match=r"has format 2, this Headrace reads 1\. Use the Headrace version"):
        handoffs.open(ASSET, PARTITION)


def test_a_writer_that_loses_the_number_takes_the_next_one(store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = HandoffStore(store, FixedClock()), HandoffStore(LocalStore(store.directory), FixedClock())
    create = store.create

    def create_after_somebody_else(key: str, body: bytes) -> bool:
        monkeypatch.setattr(store, "create", create)
        theirs.publish(ASSET, PARTITION, make_table(1), **MADE_BY)
        return create(key, body)

    monkeypatch.setattr(store, "create", create_after_somebody_else)
    assert ours.publish(ASSET, PARTITION, make_table(2), **MADE_BY).version == 2
    assert ours.open(ASSET, PARTITION, 1).table().equals(make_table(1))


def test_a_writer_whose_reply_was_lost_knows_its_own_manifest(
    store: LocalStore, handoffs: HandoffStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    create = store.create

    def create_and_deny_it(key: str, body: bytes) -> bool:
        create(key, body)
        return False

    monkeypatch.setattr(store, "create", create_and_deny_it)
    handoff = handoffs.publish(ASSET, PARTITION, make_table(), **MADE_BY)
    assert (handoff.version, handoff.reused) == (1, False)
    assert handoffs.versions(ASSET, PARTITION) == [1]


def test_a_full_disk_leaves_no_version_and_no_parts(handoffs: HandoffStore, store: LocalStore) -> None:
    table = make_table(num_rows=50_000)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (256 * 1024, hard))
    try:
        with pytest.raises(StoreUnavailable, match="the file would be larger than the file size limit"):
            handoffs.publish(ASSET, PARTITION, table, **MADE_BY)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert store.list("handoff") == []
    assert handoffs.publish(ASSET, PARTITION, table, **MADE_BY).version == 1
