import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from headrace.errors import HandoffCorrupt, HandoffMissing, InvalidInput
from headrace.store import sealed_files
from headrace.store.local import LocalStore
from headrace.store.sealed_directory import find_directory, open_directory, seal_directory
from tests.store.old_objects import of_old


@pytest.fixture
def source(tmp_path: Path) -> Path:
    directory = tmp_path / "source"
    (directory / "tokenizer").mkdir(parents=True)
    (directory / "model.safetensors").write_bytes(bytes(range(256)) * 4096)
    (directory / "config.json").write_text("{}")
    (directory / "tokenizer/vocab.txt").write_text("a\nb\n")
    (directory / ".cache").mkdir()
    (directory / ".cache/downloaded_at").write_text("yesterday")
    return directory


def files_of(directory: Path) -> dict[str, bytes]:
    return {
        path.relative_to(directory).as_posix(): path.read_bytes() for path in directory.rglob("*") if path.is_file()
    }


def damage(path: Path, *, at: int = 1000) -> None:
    """Flips one bit, and puts the old time of modification back."""
    state = path.stat()
    path.chmod(0o644)
    body = bytearray(path.read_bytes())
    body[at % len(body)] ^= 1
    path.write_bytes(body)
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))


def test_a_sealed_directory_opens_with_its_plain_file_names(store: LocalStore, source: Path) -> None:
    sealed = seal_directory(store, source, attributes={"training_id": "t1"})
    directory = open_directory(store, sealed.digest)
    assert sorted(files_of(directory)) == ["config.json", "model.safetensors", "tokenizer/vocab.txt"]
    assert files_of(directory).items() <= files_of(source).items()
    assert sealed.uri == directory.as_uri()
    assert sealed.num_bytes == 256 * 4096 + 2 + 4
    assert sealed == find_directory(store, sealed.digest)
    assert sealed.attributes == {"training_id": "t1"}


def test_the_same_files_elsewhere_are_sealed_once(store: LocalStore, source: Path, tmp_path: Path) -> None:
    first = seal_directory(store, source, attributes={"training_id": "t1"})
    before = store.list("weights")
    shutil.copytree(source, tmp_path / "copy")
    assert seal_directory(store, tmp_path / "copy", attributes={"training_id": "t2"}) == first
    assert store.list("weights") == before


def test_a_byte_or_a_name_more_is_another_digest(store: LocalStore, source: Path) -> None:
    digests = {seal_directory(store, source).digest}
    (source / "config.json").rename(source / "config2.json")
    digests.add(seal_directory(store, source).digest)
    (source / "config2.json").write_text("{ }")
    digests.add(seal_directory(store, source).digest)
    assert len(digests) == 3


def test_writing_over_the_source_does_not_reach_the_store(store: LocalStore, source: Path) -> None:
    sealed = seal_directory(store, source)
    (source / "config.json").write_text("changed in place")
    assert (open_directory(store, sealed.digest) / "config.json").read_text() == "{}"


def test_a_flipped_bit_is_found_though_the_files_were_verified_before(store: LocalStore, source: Path) -> None:
    sealed = seal_directory(store, source)
    damage(open_directory(store, sealed.digest) / "model.safetensors")
    with pytest.raises(HandoffCorrupt, match=r"model\.safetensors is missing or is not sha256 .*Seal the same files"):
        open_directory(store, sealed.digest)


def test_a_lost_file_is_found(store: LocalStore, source: Path) -> None:
    sealed = seal_directory(store, source)
    (open_directory(store, sealed.digest) / "tokenizer/vocab.txt").unlink()
    with pytest.raises(HandoffCorrupt, match=r"tokenizer/vocab\.txt is missing"):
        open_directory(store, sealed.digest)


def test_sealing_again_repairs_what_was_damaged(store: LocalStore, source: Path) -> None:
    sealed = seal_directory(store, source)
    directory = open_directory(store, sealed.digest)
    damage(directory / "model.safetensors")
    (directory / "config.json").unlink()
    assert seal_directory(store, source) == sealed
    assert files_of(open_directory(store, sealed.digest)).items() <= files_of(source).items()


def test_files_are_hashed_once_a_machine(store: LocalStore, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sealed = seal_directory(store, source)
    open_directory(store, sealed.digest)
    monkeypatch.setattr(sealed_files, "sha256_of", lambda path: pytest.fail(f"{path} is hashed again"))
    open_directory(LocalStore(store.directory), sealed.digest)


def test_a_torn_mark_of_verification_only_costs_another_look(store: LocalStore, source: Path) -> None:
    sealed = seal_directory(store, source)
    open_directory(store, sealed.digest)
    (mark,) = (store.node_directory() / "verified").iterdir()
    mark.write_text("[[")
    open_directory(store, sealed.digest)


def test_nothing_to_seal_is_refused(store: LocalStore, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"Nothing to seal: .*absent is not a directory with files"):
        seal_directory(store, tmp_path / "absent")


def test_a_file_that_changes_while_it_is_sealed_is_refused(
    store: LocalStore, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_part = store.write_part

    def write_part_after_the_file_changed(key: str):
        (source / "config.json").write_text('{"changed": true}')
        return write_part(key)

    monkeypatch.setattr(store, "write_part", write_part_after_the_file_changed)
    with pytest.raises(InvalidInput, match=r"config\.json changed while it was being sealed"):
        seal_directory(store, source)
    assert store.list("weights") == []


def test_an_unknown_digest_says_what_to_do(store: LocalStore) -> None:
    with pytest.raises(
        HandoffMissing, match=r"No weights with digest abc are sealed in file://.*Materialize the asset"
    ):
        open_directory(store, "abc")
    assert find_directory(store, "abc") is None


@pytest.mark.process
def test_a_sealer_killed_at_any_line_leaves_a_whole_directory_or_none(source: Path, tmp_path: Path) -> None:
    driver = [sys.executable, str(Path(__file__).parent / "killed_writer.py"), "seal", str(tmp_path / "runs"), "40"]
    (tmp_path / "runs").mkdir()
    shutil.copytree(source, tmp_path / "runs/source")
    killed = subprocess.run(driver, check=True, capture_output=True, text=True).stdout.split()
    num_sealed = 0
    for directory in killed:
        store = LocalStore(Path(directory))
        for name in store.children("weights"):
            if name != "parts" and store.children(f"weights/{name}"):
                num_sealed += 1
                assert files_of(open_directory(store, name)).items() <= files_of(source).items()
        sealed = seal_directory(store, source, attributes={"training_id": "t"})
        assert files_of(open_directory(store, sealed.digest)).items() <= files_of(source).items()
        assert sealed.attributes == {"training_id": "t"}
    assert 0 < num_sealed < len(killed) == 40


def overwrite(store: LocalStore, key: str, body: bytes) -> None:
    store.delete(key)
    store.create(key, body)


def manifest_key(digest: str) -> str:
    return f"weights/{digest}/manifest.json"


def test_another_directorys_manifest_is_never_opened_as_this_one(
    store: LocalStore, source: Path, tmp_path: Path
) -> None:
    sealed = seal_directory(store, source)
    other = shutil.copytree(source, tmp_path / "other")
    (other / "config.json").write_text('{"other": true}')
    foreign = store.read(manifest_key(seal_directory(store, other).digest))
    for body in (foreign, of_old(foreign), of_old(foreign, {"digest": sealed.digest})):
        overwrite(store, manifest_key(sealed.digest), body)
        with pytest.raises(HandoffCorrupt, match=r"Seal the same files again") as error:
            open_directory(store, sealed.digest)
        assert error.value.key == manifest_key(sealed.digest)


def test_a_manifest_that_lists_one_file_less_is_not_believed(store: LocalStore, source: Path) -> None:
    sealed = seal_directory(store, source)
    body = store.read(manifest_key(sealed.digest))
    shorter = {"files": json.loads(body)["files"][1:]}
    overwrite(store, manifest_key(sealed.digest), of_old(body, shorter))
    with pytest.raises(HandoffCorrupt, match=r"is not the one of weights .*: it lists files of"):
        open_directory(store, sealed.digest)


def flipped_sha256(body: bytes) -> bytes:
    files = json.loads(body)["files"]
    files[1]["sha256"] = files[1]["sha256"][:-1] + ("0" if files[1]["sha256"][-1] != "0" else "1")
    return of_old(body, {"files": files})


def flipped_size(body: bytes) -> bytes:
    files = json.loads(body)["files"]
    files[1]["num_bytes"] += 1
    return of_old(body, {"files": files})


@pytest.mark.parametrize(
    "damage", [lambda _: b"", lambda _: b"{}", lambda body: body[:-9], flipped_sha256, flipped_size]
)
def test_a_damaged_manifest_is_repaired_by_sealing_again_and_costs_no_good_file(
    store: LocalStore, source: Path, damage: Callable[[bytes], bytes]
) -> None:
    sealed = seal_directory(store, source)
    before = files_of(open_directory(store, sealed.digest))
    overwrite(store, manifest_key(sealed.digest), damage(store.read(manifest_key(sealed.digest))))
    again = seal_directory(store, source)
    assert again.digest == sealed.digest
    assert files_of(open_directory(store, sealed.digest)) == before
    # What was there before the repair is there still.
    assert files_of(store.local_directory(sealed.key)) == before


def test_a_repair_whose_source_breaks_off_takes_nothing_away(
    store: LocalStore, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sealed = seal_directory(store, source)
    path = store.local_path(f"{sealed.key}/model.safetensors")
    damage(path)
    damaged = path.read_bytes()
    copy = sealed_files.copy

    def interrupted(*arguments: Any) -> None:
        copy(*arguments)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(sealed_files, "copy", interrupted)
        with pytest.raises(KeyboardInterrupt):
            seal_directory(store, source)
    assert path.read_bytes() == damaged
    seal_directory(store, source)
    assert files_of(open_directory(store, sealed.digest)).items() <= files_of(source).items()
    assert len(store.children("weights/parts")) == 1
