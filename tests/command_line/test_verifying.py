"""verify reads what is stored, and goes on after a damaged version."""

import json
from pathlib import Path

import pytest

from headrace.handoff.versions import HandoffStore
from headrace.store.local import LocalStore
from tests.command_line.builders import flip_a_byte, run


@pytest.fixture
def handoffs(store: Path) -> HandoffStore:
    return HandoffStore(LocalStore(store))


def test_a_whole_store_is_whole(store: Path) -> None:
    result = run("handoff", "verify", store=store)
    assert result.exit_code == 0
    assert "3 versions verified" in result.stdout
    assert "5 versions verified" in run("handoff", "verify", "--all-versions", store=store).stdout


def test_verify_goes_on_after_a_damaged_version_and_says_what_to_do(store: Path, handoffs: HandoffStore) -> None:
    flip_a_byte(handoffs.open("raw_documents", "shard-00", 1))
    part = handoffs.open("raw_documents", "shard-00", 2).manifest.parts[0]
    handoffs.objects.delete(part.key)
    (store / "handoff/labels/all/v000001/manifest.json").write_text("{")
    result = run("handoff", "verify", "--all-versions", "--json", store=store)
    body = json.loads(result.stdout)
    assert result.exit_code == 1
    assert {(one["asset"], one["version"], one["kind"]) for one in body["damaged"]} == {
        ("labels", 1, "ManifestDamaged"),
        ("raw_documents", 1, "PartFlipped"),
        ("raw_documents", 2, "PartMissing"),
    }
    assert body["num_verified"] == 2
    text = run("handoff", "verify", "--all-versions", store=store).stdout
    assert "Materialize raw_documents[shard-00] again" in text
    assert "3 damaged, 2 whole." in text


def test_verify_looks_at_what_was_asked_for_alone(store: Path, handoffs: HandoffStore) -> None:
    flip_a_byte(handoffs.open("raw_documents", "shard-00", 1))
    assert run("handoff", "verify", store=store).exit_code == 0
    assert run("handoff", "verify", "raw_documents", "shard-01", store=store).exit_code == 0
    assert run("handoff", "verify", "raw_documents", "shard-00", "v2", store=store).exit_code == 0
    assert run("handoff", "verify", "raw_documents[shard-00]@v1", store=store).exit_code == 1


def test_a_mark_of_an_earlier_verification_does_not_count(store: Path, handoffs: HandoffStore) -> None:
    handoff = handoffs.open("labels", "all")
    handoff.table()
    path = handoff.objects.local_path(handoff.manifest.parts[0].key)
    stamp = path.stat()
    with path.open("r+b") as file:
        file.seek(stamp.st_size // 2)
        byte = file.read(1)
        file.seek(stamp.st_size // 2)
        file.write(bytes([byte[0] ^ 1]))
    import os

    os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    assert run("handoff", "verify", "labels", store=store).exit_code == 1


def test_a_name_that_is_not_there_is_no_success(store: Path) -> None:
    assert run("handoff", "verify", "labels", "all", "v9", store=store).exit_code == 2
    assert run("handoff", "verify", "label", store=store).exit_code == 2
