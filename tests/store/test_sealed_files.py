"""Large files that several sealings have are one file of the store."""

import shutil
from pathlib import Path

import pytest

from headrace.clock import FixedClock
from headrace.errors import HandoffCorrupt
from headrace.store import sealed_directory
from headrace.store.local import LocalStore
from headrace.store.objects import ObjectStore
from headrace.store.sealed_directory import SealedDirectory, open_directory, seal_directory

ENCODER = bytes(range(256)) * 4096
NAME = "text_encoder/model.safetensors"


def make_source(directory: Path, *, encoder: bytes = ENCODER, denoiser: bytes = b"d") -> Path:
    """A pipeline of two components: by default a large encoder and a small denoiser."""
    for name, body in ((NAME, encoder), ("denoiser.safetensors", denoiser)):
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_bytes(body)
    return directory


def file_of(store: ObjectStore, sealed: SealedDirectory, name: str = NAME) -> Path:
    return store.local_path(f"{sealed.key}/{name}")


def damage(path: Path) -> None:
    path.chmod(0o644)
    with path.open("r+b") as file:
        file.seek(7)
        file.write(b"!")


@pytest.fixture
def first(store: LocalStore, tmp_path: Path) -> SealedDirectory:
    return seal_directory(store, make_source(tmp_path / "first"))


@pytest.fixture
def second(tmp_path: Path) -> Path:
    """Another pipeline with the same encoder."""
    return make_source(tmp_path / "second", denoiser=b"e")


def test_a_large_file_that_two_sealings_have_is_one_file(
    store: LocalStore, first: SealedDirectory, second: Path
) -> None:
    sealed = seal_directory(store, second)
    assert file_of(store, sealed).samefile(file_of(store, first))
    assert (open_directory(store, sealed.digest) / NAME).read_bytes() == ENCODER
    assert (open_directory(store, first.digest) / NAME).read_bytes() == ENCODER


def test_a_users_file_is_never_linked(store: LocalStore, first: SealedDirectory, second: Path) -> None:
    """A training library truncates its output in place when it runs again."""
    sealed = seal_directory(store, second)
    (second / NAME).write_bytes(b"")
    assert (open_directory(store, sealed.digest) / NAME).read_bytes() == ENCODER
    assert (second / NAME).stat().st_nlink == 1


def test_small_files_and_those_of_another_kind_are_copied(
    store: LocalStore, first: SealedDirectory, second: Path, tmp_path: Path
) -> None:
    other_kind = seal_directory(store, second, kind="adapters")
    assert not file_of(store, other_kind).samefile(file_of(store, first))
    small = make_source(tmp_path / "small", encoder=ENCODER[:-1] + b"?")
    sealed = seal_directory(store, small)
    assert not file_of(store, sealed, "denoiser.safetensors").samefile(file_of(store, first, "denoiser.safetensors"))


def test_a_damaged_file_is_not_spread(store: LocalStore, first: SealedDirectory, second: Path) -> None:
    damage(file_of(store, first))
    sealed = seal_directory(store, second)
    assert not file_of(store, sealed).samefile(file_of(store, first))
    assert (open_directory(store, sealed.digest) / NAME).read_bytes() == ENCODER


@pytest.mark.parametrize("body", [b"", b"{}"])
def test_a_damaged_manifest_offers_nothing(
    store: LocalStore, first: SealedDirectory, second: Path, body: bytes
) -> None:
    store.delete(first.manifest_key)
    store.create(first.manifest_key, body)
    sealed = seal_directory(store, second)
    assert file_of(store, sealed).stat().st_nlink == 1


def test_a_repair_is_a_copy(store: LocalStore, first: SealedDirectory, second: Path) -> None:
    sealed = seal_directory(store, second)
    damage(file_of(store, first))
    with pytest.raises(HandoffCorrupt, match=r"text_encoder/model\.safetensors is missing or is not sha256"):
        open_directory(store, sealed.digest)
    assert seal_directory(store, second) == sealed
    assert (open_directory(store, sealed.digest) / NAME).read_bytes() == ENCODER
    assert not file_of(store, sealed).samefile(file_of(store, first))
    # The other one is repaired when it is sealed again.
    make_source(second.parent / "first")
    seal_directory(store, second.parent / "first")
    assert (open_directory(store, first.digest) / NAME).read_bytes() == ENCODER


def test_what_a_collector_takes_stays_under_its_other_name(
    store: LocalStore, first: SealedDirectory, second: Path
) -> None:
    sealed = seal_directory(store, second)
    sealed_directory.give_up_sealing(store, first, FixedClock(0.0))
    store.delete_prefix(first.key)
    assert (open_directory(store, sealed.digest) / NAME).read_bytes() == ENCODER
    # Of what was collected nothing is a candidate any more.
    shutil.rmtree(second)
    third = seal_directory(store, make_source(second.parent / "third", denoiser=b"f"))
    assert file_of(store, third).samefile(file_of(store, sealed))


def test_a_candidate_that_goes_while_it_is_looked_at_is_copied(
    store: LocalStore, first: SealedDirectory, second: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = store.link

    def after_the_collector(key: str, existing: str) -> bool:
        store.delete(existing)
        return link(key, existing)

    monkeypatch.setattr(store, "link", after_the_collector)
    sealed = seal_directory(store, second)
    assert (open_directory(store, sealed.digest) / NAME).read_bytes() == ENCODER
