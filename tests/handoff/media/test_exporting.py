"""Exports are whole or not there, overwrite nothing, and hold what the media hold."""

import json
import tarfile
import tracemalloc
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from headrace.errors import InvalidInput, PartFlipped, StoreUnavailable
from headrace.handoff.media.exporting import METADATA, export_folder, export_parquet, export_webdataset
from headrace.handoff.media.file_names import file_name, file_stem
from headrace.handoff.media.reading import MediaSet
from headrace.handoff.versions import HandoffStore
from headrace.store.local import LocalStore
from tests.handoff.media.builders import flip, make_bodies, make_item, make_items, publish, store_files

IDS = st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=12) | st.sampled_from(
    ["..", ".", "a/b", "../up", "con.txt", "metadata.jsonl", "x" * 400, "x" * 401, "é" * 200, "a.b.c", "~", "%2E", "\0"]
)


def read_folder(directory: Path) -> dict[str, bytes]:
    lines = [json.loads(line) for line in (directory / METADATA).read_text().splitlines()]
    assert len(list(directory.iterdir())) == len(lines) + 1
    return {line["item_id"]: (directory / line["file_name"]).read_bytes() for line in lines}


def read_webdataset(paths: list[Path]) -> dict[str, bytes]:
    """As WebDataset reads it: a sample is what shares the name up to the first dot."""
    samples: dict[str, dict[str, bytes]] = {}
    for path in paths:
        with tarfile.open(path) as tar:
            for member in tar:
                key, _, suffix = member.name.partition(".")
                file = tar.extractfile(member)
                assert file
                samples.setdefault(key, {})[suffix] = file.read()
    return {json.loads(sample["json"])["item_id"]: sample["png"] for sample in samples.values()}


def read_parquet(path: Path) -> dict[str, bytes]:
    return {row["item_id"]: row["content"] for row in pq.read_table(path).to_pylist()}


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(bodies=st.dictionaries(IDS, st.binary(max_size=2000), max_size=12), tar_bytes=st.integers(1, 20_000))
def test_every_export_holds_the_items(
    tmp_path_factory: pytest.TempPathFactory, bodies: dict[str, bytes], tar_bytes: int
) -> None:
    directory = tmp_path_factory.mktemp("exports")
    media = MediaSet.open(publish(HandoffStore(LocalStore(directory / "store")), make_items(bodies)))
    assert read_folder(export_folder(media, directory / "folder")) == bodies
    tars = export_webdataset(media, directory / "tars/pictures-%06d.tar", tar_bytes=tar_bytes)
    assert sorted((directory / "tars").iterdir()) == tars
    assert read_webdataset(tars) == bodies
    assert read_parquet(export_parquet(media, directory / "items.parquet")) == bodies


@given(st.lists(IDS, unique=True, max_size=20))
def test_every_id_has_a_safe_file_name_of_its_own(ids: list[str]) -> None:
    names = [file_name(item_id, "image/png") for item_id in ids]
    assert len(set(names)) == len(names)
    for item_id, name in zip(ids, names, strict=True):
        assert len(name.encode()) <= 240
        assert name.count(".") == 1
        assert "/" not in name
        assert "." not in file_stem(item_id)


@pytest.mark.parametrize(
    ("media_type", "suffix"),
    [("image/jpeg", "jpg"), ("audio/wav", "wav"), ("video/mp4", "mp4"), ("application/x-unheard-of", "bin")],
)
def test_a_media_type_gives_the_usual_suffix(media_type: str, suffix: str) -> None:
    assert file_name("one", media_type) == f"one.{suffix}"


@pytest.fixture
def media(handoffs: HandoffStore) -> MediaSet:
    return MediaSet.open(publish(handoffs, make_items(make_bodies(30)), shard_bytes=8000))


EXPORTS = {
    "folder": lambda media, directory, **options: export_folder(media, directory / "out", **options),
    "webdataset": lambda media, directory, **options: export_webdataset(media, directory / "out-%03d.tar", **options),
    "parquet": lambda media, directory, **options: export_parquet(media, directory / "out.parquet", **options),
}


@pytest.mark.parametrize("form", EXPORTS)
def test_an_export_overwrites_nothing(media: MediaSet, tmp_path: Path, form: str) -> None:
    EXPORTS[form](media, tmp_path / "there")
    before = sorted((path, path.stat().st_mtime_ns) for path in (tmp_path / "there").rglob("*"))
    with pytest.raises(InvalidInput, match="exists, and an export overwrites nothing"):
        EXPORTS[form](media, tmp_path / "there")
    assert sorted((path, path.stat().st_mtime_ns) for path in (tmp_path / "there").rglob("*")) == before


@pytest.mark.parametrize("form", EXPORTS)
def test_an_export_of_damaged_media_leaves_nothing(media: MediaSet, tmp_path: Path, form: str) -> None:
    flip(store_files(media.handoff, ".media")[1], 5)
    with pytest.raises(PartFlipped):
        EXPORTS[form](media, tmp_path / "there")
    assert list((tmp_path / "there").iterdir()) == []


@pytest.mark.parametrize("form", EXPORTS)
def test_an_export_says_how_far_it_is(media: MediaSet, tmp_path: Path, form: str) -> None:
    seen: list[tuple[int, int]] = []
    EXPORTS[form](media, tmp_path, progress=lambda *done: seen.append(done))
    assert seen == [(number, 30) for number in range(1, 31)]


def test_an_export_to_a_place_that_takes_no_files_says_so(media: MediaSet, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreUnavailable, match="Cannot export to"):
        export_folder(media, tmp_path / "file/below")


@pytest.mark.parametrize("name", ["pictures.tar", "%d.tar", "a-%03d-%03d.tar", "100%-%03d.tar"])
def test_a_webdataset_pattern_has_one_number(media: MediaSet, tmp_path: Path, name: str) -> None:
    with pytest.raises(InvalidInput, match="must have one number such as %06d"):
        export_webdataset(media, tmp_path / name)


def test_parquet_refuses_what_it_cannot_stream(handoffs: HandoffStore, tmp_path: Path) -> None:
    media = MediaSet.open(publish(handoffs, [make_item("film", bytes(1000), "video/mp4")]))
    with pytest.raises(InvalidInput, match="Item 'film' has 1000 bytes, Parquet export takes at most 999"):
        export_parquet(media, tmp_path / "items.parquet", item_bytes_max=999)
    assert [path.name for path in tmp_path.iterdir()] == ["store"]


def test_a_large_item_streams_into_folder_and_tar(handoffs: HandoffStore, tmp_path: Path) -> None:
    num_bytes = 48 << 20
    item = make_item("film", (bytes(1 << 20) for _ in range(48)), "video/mp4", num_bytes=num_bytes)
    media = MediaSet.open(publish(handoffs, [item]))
    list(media)
    tracemalloc.start()
    directory = export_folder(media, tmp_path / "out")
    (tar,) = export_webdataset(media, tmp_path / "out-%03d.tar")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (directory / "film.mp4").stat().st_size == num_bytes
    assert tar.stat().st_size > num_bytes
    assert peak < num_bytes // 4
