import json
import os
import resource
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from headrace.clock import FixedClock
from headrace.errors import (
    FormatTooNew,
    HandoffCorrupt,
    HandoffMissing,
    InvalidInput,
    ManifestDamaged,
    PartFlipped,
    PartForeign,
    PartMissing,
    PartTorn,
    PublishConflict,
    StoreUnavailable,
)
from headrace.handoff.manifest import Manifest
from headrace.handoff.parts import BATCH_BYTES, write_parts
from headrace.handoff.versions import Handoff, HandoffStore
from headrace.keys import partition_path
from headrace.store.local import LocalStore
from headrace.store.objects import canonical_json

ASSET, PARTITION = "generated_content", "2026-11-22|glossary-03"
MADE_BY: dict[str, Any] = {"code_version": "1", "run_id": "run-1"}


def make_table(start: int = 0, num_rows: int = 100) -> pa.Table:
    numbers = range(start, start + num_rows)
    return pa.table({"number": list(numbers), "text": [f"row {number}" for number in numbers]})


def rows_of(handoff: Handoff) -> pa.Table:
    """As they were before text became views."""
    return handoff.table().cast(make_table().schema)


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
    assert rows_of(handoff).equals(make_table())
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
    assert rows_of(handoffs.open(ASSET, PARTITION, 2)).equals(make_table(1))
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
        assert store.list("handoff")
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
    ],
    ids=["no schema", "surplus column", "other type", "null where none may be"],
)
def test_rows_that_do_not_fit_are_refused(handoffs: HandoffStore, rows: object, schema: object, refusal: str) -> None:
    with pytest.raises(InvalidInput, match=refusal):
        handoffs.publish(ASSET, PARTITION, rows, schema=schema, **MADE_BY)  # pyright: ignore[reportArgumentType]
    assert handoffs.versions(ASSET, PARTITION) == []


def test_no_rows_still_have_a_schema(handoffs: HandoffStore) -> None:
    handoff = handoffs.publish(ASSET, PARTITION, iter(()), schema=make_table().schema, **MADE_BY)
    assert handoff.num_rows == 0
    assert rows_of(handoff).equals(make_table().slice(0, 0))
    assert handoff.schema.types == [pa.int64(), pa.string_view()]


def test_a_large_handoff_is_several_files_and_one_content(store: LocalStore, handoffs: HandoffStore) -> None:
    table = make_table(num_rows=20_000)
    batches = table.to_batches(max_chunksize=100)
    parts = write_parts(store, "parts/n", table.schema, batches, batch_bytes=20_000, part_bytes=100_000)
    assert len(parts.parts) > 3
    assert parts.num_rows == 20_000
    assert parts.content_digest == handoffs.publish(ASSET, PARTITION, table, **MADE_BY).content_digest
    files = [pa.ipc.open_file(store.local_path(part.key)) for part in parts.parts]
    assert pa.concat_tables(file.read_all() for file in files).cast(table.schema).equals(table)
    # Small batches are joined: per-batch costs would make a table of tiny chunks slow in every reader.
    assert len(files) < 40
    assert all(file.num_record_batches == 1 for file in files)


@pytest.mark.parametrize("at", [8, 1000, -600, -20], ids=["header", "body", "footer", "end"])
def test_a_flipped_bit_in_a_part_is_found_before_anybody_reads_it(handoffs: HandoffStore, at: int) -> None:
    handoff = handoffs.publish(ASSET, PARTITION, make_table(), **MADE_BY)
    assert handoff.table().num_rows == 100  # verified once: the flip comes after
    damage(handoff.paths[0], at=at)
    expected = (
        r"Handoff generated_content\[2026-11-22\|glossary-03\] v1 does not match its manifest: part-00000\.arrow, "
        r"(its frame|column \w+), has digest \w{8}…, manifest says \w{8}…\. Materialize"
    )
    with pytest.raises(PartFlipped, match=expected):
        handoff.verify()
    with pytest.raises(PartFlipped, match=expected):
        handoffs.open(ASSET, PARTITION).table()


def test_a_torn_or_a_missing_part_is_found(handoffs: HandoffStore) -> None:
    handoff = handoffs.publish(ASSET, PARTITION, make_table(), **MADE_BY)
    path = handoff.paths[0]
    body = path.read_bytes()
    path.unlink()
    with pytest.raises(PartMissing, match=r"part-00000\.arrow is missing"):
        handoff.table()
    path.write_bytes(body[:-1])
    with pytest.raises(PartTorn, match=f"has {len(body) - 1} bytes, manifest says {len(body)}"):
        handoff.table()


def test_publishing_damaged_content_again_repairs_it_as_a_new_version(handoffs: HandoffStore) -> None:
    first = handoffs.publish(ASSET, PARTITION, make_table(), **MADE_BY)
    damage(first.paths[0], at=500)
    second = handoffs.publish(ASSET, PARTITION, make_table(), **MADE_BY)
    assert (second.reused, second.version) == (False, 2)
    assert second.content_digest == first.content_digest
    assert rows_of(handoffs.open(ASSET, PARTITION)).equals(make_table())


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
    body = Manifest(**{**vars(published.manifest), "format_version": 3}).to_body()
    path = manifest_path(store, published)
    path.unlink()
    path.write_bytes(canonical_json(body))
    with pytest.raises(FormatTooNew, match=r"has format 3, this Headrace reads 2\. Upgrade Headrace to the version"):
        handoffs.open(ASSET, PARTITION)


@pytest.mark.parametrize("start", [1, 2], ids=["the same content", "other content"])
def test_one_writer_wins_a_version_and_the_other_gets_it_or_an_error(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch, start: int
) -> None:
    ours, theirs = HandoffStore(store, FixedClock()), HandoffStore(LocalStore(store.directory), FixedClock())
    write_part = store.write_part

    def write_after_somebody_else(key: str) -> Any:
        monkeypatch.setattr(store, "write_part", write_part)
        theirs.publish(ASSET, PARTITION, make_table(1), **MADE_BY)
        return write_part(key)

    monkeypatch.setattr(store, "write_part", write_after_somebody_else)
    if start == 1:
        handoff = ours.publish(ASSET, PARTITION, make_table(start), **MADE_BY)
        assert (handoff.version, handoff.reused) == (1, True)
    else:
        with pytest.raises(
            PublishConflict, match=r"Another writer sealed generated_content\[.*\] v1 with other content"
        ):
            ours.publish(ASSET, PARTITION, make_table(start), **MADE_BY)
    assert ours.versions(ASSET, PARTITION) == [1]
    assert rows_of(ours.open(ASSET, PARTITION)).equals(make_table(1))
    assert len(store.children(f"handoff/{ASSET}/{partition_path(PARTITION)}/parts")) == 1


def test_of_what_is_published_once_a_late_repetition_finds_the_first(handoffs: HandoffStore) -> None:
    first = handoffs.publish(ASSET, PARTITION, make_table(1), once={"claim": "c1"}, **MADE_BY)
    handoffs.publish(ASSET, PARTITION, make_table(2), once={"claim": "c2"}, **MADE_BY)
    late = handoffs.publish(ASSET, PARTITION, make_table(1), once={"claim": "c1"}, **MADE_BY)
    assert (late.version, late.reused) == (first.version, True)
    assert handoffs.open(ASSET, PARTITION).version == 2


def publish_made_from(handoffs: HandoffStore, start: int, **inputs: str) -> Handoff:
    versions = {f"{asset}[a]": stated for asset, stated in inputs.items()}
    return handoffs.publish(ASSET, PARTITION, make_table(start), input_versions=versions, **MADE_BY)


def test_rows_of_older_inputs_do_not_become_the_newest_version(handoffs: HandoffStore, store: LocalStore) -> None:
    docs = [handoffs.publish("docs", "a", make_table(start), **MADE_BY) for start in range(2)]
    older, newer = (f"v{one.version} {one.content_digest}" for one in docs)
    publish_made_from(handoffs, 5, docs=newer)
    with pytest.raises(
        PublishConflict,
        match=r"run-1 was not sealed: it was made from docs\[a\] v1, and generated_content\[.*\] v1 from v2\. .* Run",
    ):
        publish_made_from(handoffs, 6, docs=older)
    assert handoffs.versions(ASSET, PARTITION) == [1]
    assert len(store.children(f"handoff/{ASSET}/{partition_path(PARTITION)}/parts")) == 1
    assert publish_made_from(handoffs, 5, docs=older).reused, "the same rows are no older ones"


@pytest.mark.parametrize(
    "newest", ["v7 abc", "v1 abc", "hand-made"], ids=["unknown here", "of the same number", "not numbered"]
)
def test_inputs_of_which_none_is_known_to_be_newer_hold_nothing_up(handoffs: HandoffStore, newest: str) -> None:
    publish_made_from(handoffs, 1, docs=newest, words="v3 xyz")
    assert publish_made_from(handoffs, 2, docs="v1 def").version == 2


def test_a_version_sealed_since_a_decision_is_a_conflict(handoffs: HandoffStore) -> None:
    expected = handoffs.last_number(ASSET, PARTITION)
    handoffs.publish(ASSET, PARTITION, make_table(1), **MADE_BY)
    with pytest.raises(PublishConflict, match="Another writer sealed"):
        handoffs.publish(ASSET, PARTITION, make_table(2), expected=expected, **MADE_BY)
    assert handoffs.versions(ASSET, PARTITION) == [1]


def test_what_was_made_is_found_by_code_and_inputs_alone(handoffs: HandoffStore) -> None:
    made = {"code_version": "3", "run_id": "run-1", "input_versions": {"docs[a]": "v7 abc"}}
    handoffs.publish(ASSET, PARTITION, make_table(), **made)
    found = handoffs.find_made(ASSET, PARTITION, code_version="3", input_versions={"docs[a]": "v9 abc"})
    assert found
    assert (found.version, found.reused) == (1, True)
    for code_version, digest in [("4", "abc"), ("3", "abd")]:
        inputs = {"docs[a]": f"v7 {digest}"}
        assert handoffs.find_made(ASSET, PARTITION, code_version=code_version, input_versions=inputs) is None
    damage(found.paths[0], at=1000)
    assert handoffs.find_made(ASSET, PARTITION, code_version="3", input_versions={"docs[a]": "v7 abc"}) is None


def test_a_manifest_that_belongs_elsewhere_is_not_believed(handoffs: HandoffStore, store: LocalStore) -> None:
    first, second = (handoffs.publish(ASSET, PARTITION, make_table(start), **MADE_BY) for start in range(2))
    path = manifest_path(store, first)
    path.unlink()
    path.write_bytes(manifest_path(store, second).read_bytes())
    with pytest.raises(ManifestDamaged, match=r"is the one of generated_content\[.*\] v2: somebody moved files"):
        handoffs.open(ASSET, PARTITION, 1)
    assert rows_of(handoffs.open(ASSET, PARTITION)).equals(make_table(1))


def test_rows_can_be_picked_across_parts(handoffs: HandoffStore) -> None:
    handoff = handoffs.publish(ASSET, PARTITION, make_table(num_rows=1000), part_bytes=4000, **MADE_BY)
    assert len(handoff.manifest.parts) > 3
    assert handoff.table(["number"], rows=range(333, 801))["number"].to_pylist() == list(range(333, 801))
    assert handoff.table(rows=range(5, 5)).num_rows == 0
    with pytest.raises(
        InvalidInput, match=r"has rows 0 to 1000; wanted a range within, with step 1, got range\(0, 2000\)"
    ):
        handoff.table(rows=range(2000))


def test_a_column_that_is_not_there_is_named_beside_those_that_are(handoffs: HandoffStore) -> None:
    handoff = handoffs.publish(ASSET, PARTITION, make_table(), **MADE_BY)
    with pytest.raises(InvalidInput, match=r"has no column 'txet'\. It has number: int64, text: string_view"):
        handoff.table(["txet"])
    handoff.expect(make_table().schema)
    with pytest.raises(InvalidInput, match=r"(?s)v1 does not have the columns.*number: got int64, wanted int32"):
        handoff.expect(pa.schema([("number", pa.int32()), ("text", pa.string())]))


def test_verification_is_as_strict_as_it_is_asked_to_be(handoffs: HandoffStore) -> None:
    handoff = handoffs.publish(ASSET, PARTITION, make_table(), **MADE_BY)
    (part,) = handoff.manifest.parts
    text = part.columns.index(1)
    damage(handoff.paths[0], at=part.segments[text].offset)
    assert handoff.with_verification("off").table().num_rows == 100
    assert handoff.with_verification("lazy").table(["number"]).num_rows == 100
    for verification in ("once", "lazy", "eager"):
        with pytest.raises(PartFlipped, match=r"part-00000\.arrow, column text, has digest"):
            handoff.with_verification(verification).table(["text"])
    with pytest.raises(PartFlipped):
        handoff.with_verification("eager").table(["number"])
    with pytest.raises(InvalidInput, match="must be one of once, off, lazy, eager, got 'twice'"):
        handoff.with_verification("twice")  # pyright: ignore[reportArgumentType]


def test_a_file_that_is_another_one_of_the_same_size_is_foreign(handoffs: HandoffStore) -> None:
    handoff = handoffs.publish(ASSET, PARTITION, make_table(), **MADE_BY).with_verification("off")
    path = handoff.paths[0]
    num_bytes = path.stat().st_size
    path.unlink()
    path.write_bytes(b"x" * num_bytes)
    with pytest.raises(PartForeign, match=r"part-00000\.arrow is not the Arrow file that was sealed"):
        handoff.table()


def test_a_writer_whose_reply_was_lost_knows_its_own_manifest(
    store: LocalStore, handoffs: HandoffStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    create = store.create

    def create_and_deny_it(key: str, body: bytes, *, durable: bool = True) -> bool:
        create(key, body, durable=durable)
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
