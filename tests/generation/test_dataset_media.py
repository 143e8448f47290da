"""Reviewed rows with pictures and recordings as a dataset of Hugging Face: opened by it, byte for byte."""

import io
import json
import shutil
from pathlib import Path
from typing import Any

import datasets
import pyarrow.parquet as pq
import pytest
from PIL import Image

from headrace.errors import HandoffMissing
from headrace.generation.exports import DATA_FILE, export_dataset, select_rows
from headrace.handoff.media.reading import MediaSet
from tests.command_line.builders import run
from tests.generation.media_builders import MediaSite, make_reviewed_site, make_roles


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> MediaSite:
    return make_reviewed_site(tmp_path_factory.mktemp("site"), shards=(0, 1))


def sealed(site: MediaSite, asset: str) -> dict[str, bytes]:
    found = [MediaSet.open(site.handoffs.open(asset, key)) for key in site.handoffs.partitions(asset)]
    return {item.row_id or "": media.read(item.item_id) for media in found for item in media}


def kept(site: MediaSite) -> list[dict[str, Any]]:
    found = [
        site.handoffs.open("reviewed_content", key) for key in sorted(site.handoffs.partitions("reviewed_content"))
    ]
    return [row for one in found for row in one.table().to_pylist() if row["kept"]]


def opened(directory: Path, cache: Path) -> datasets.Dataset:
    return datasets.load_dataset(str(directory), cache_dir=str(cache), split="train")


def test_datasets_opens_the_pictures_and_recordings_of_kept_rows(site: MediaSite, tmp_path: Path) -> None:
    result = run("export", "glossary", tmp_path / "hub", "--format", "dataset", store=site.directory)
    assert result.exit_code == 0, result.output
    rows = opened(tmp_path / "hub", tmp_path / "cache")
    assert isinstance(rows.features["painter"], datasets.Image)
    assert isinstance(rows.features["speaker"], datasets.Audio)
    assert "media" not in rows.column_names
    assert rows["row_id"][:] == [row["row_id"] for row in kept(site)]
    pictures: list[Any] = rows.remove_columns("speaker")["painter"][:]
    assert {picture.size for picture in pictures} == {(32, 24)}
    # To decode sound it needs torchcodec; the bytes are there without.
    raw = rows.cast_column("painter", datasets.Image(decode=False)).cast_column("speaker", datasets.Audio(decode=False))
    unread: list[dict[str, Any]] = raw.to_list()
    for role, asset, suffix in (("painter", "generated_images", "png"), ("speaker", "generated_speech", "wav")):
        bodies = sealed(site, asset)
        assert [(row[role]["bytes"], row[role]["path"]) for row in unread] == [
            (bodies[row["row_id"]], f"{row['row_id']}.{suffix}") for row in kept(site)
        ]
    card = (tmp_path / "hub/README.md").read_text()
    assert "| painter | picture or sound, with its file's name |" in card


def test_windows_of_bytes_give_the_same_rows(site: MediaSite, tmp_path: Path) -> None:
    from headrace.generation.dataset_media import write_dataset_file

    selected = select_rows(site.handoffs, "glossary", with_rejected=True)
    found = []
    for window_bytes in (1, 10_000, 10**9):
        body = io.BytesIO()
        write_dataset_file(selected, site.handoffs, body, columns=["output", "media"], window_bytes=window_bytes)
        found.append(pq.read_table(body))
    assert found[0].num_rows == 14
    assert found[0].column_names == ["output", "painter", "speaker"]
    assert found[0].equals(found[1])
    assert found[0].equals(found[2])
    assert Image.open(io.BytesIO(found[0]["painter"][0].as_py()["bytes"])).size == (32, 24)


def test_without_media_among_the_columns_a_dataset_has_texts_alone(site: MediaSite, tmp_path: Path) -> None:
    selected = select_rows(site.handoffs, "glossary")
    assert export_dataset(selected, site.handoffs, tmp_path / "hub", columns=["output"]) == len(kept(site))
    assert pq.read_schema(tmp_path / "hub" / DATA_FILE).names == ["output"]


def test_rows_as_text_leave_their_media_out_and_say_so(site: MediaSite, tmp_path: Path) -> None:
    for suffix in ("csv", "jsonl"):
        result = run("export", "glossary", tmp_path / f"rows.{suffix}", store=site.directory)
        assert result.exit_code == 0, result.output
        assert "--format folder or dataset takes them along" in " ".join(result.stderr.split())
    first = json.loads((tmp_path / "rows.jsonl").read_text().splitlines()[0])
    assert "output" in first
    assert "media" not in first


def test_a_part_that_is_gone_is_named(tmp_path: Path) -> None:
    site = make_reviewed_site(tmp_path / "store")
    for gone in list((tmp_path / "store").rglob("generated_speech")):
        shutil.rmtree(gone)
    selected = select_rows(site.handoffs, "glossary")
    with pytest.raises(HandoffMissing, match="says that speaker made something of row [0-9a-f]{12}, and it is gone"):
        export_dataset(selected, site.handoffs, tmp_path / "hub")
    assert not (tmp_path / "hub").exists()


def test_no_two_roles_share_a_column(tmp_path: Path) -> None:
    painter = make_roles()["painter"]
    roles = {"writer": make_roles()["writer"], "output": painter, "output_media": painter}
    site = make_reviewed_site(tmp_path / "store", roles=roles, chain=tuple(roles))
    export_dataset(select_rows(site.handoffs, "glossary"), site.handoffs, tmp_path / "hub")
    names = pq.read_schema(tmp_path / "hub" / DATA_FILE).names
    assert len(set(names)) == len(names)
    assert {"output", "output_media", "output_media_media"} <= set(names)


def test_a_role_that_is_called_as_a_column_is_a_column_of_another_name(tmp_path: Path) -> None:
    roles = make_roles()
    roles = {"writer": roles["writer"], "output": roles["painter"]}
    site = make_reviewed_site(tmp_path / "store", roles=roles, chain=tuple(roles))
    export_dataset(select_rows(site.handoffs, "glossary"), site.handoffs, tmp_path / "hub")
    rows = pq.read_table(tmp_path / "hub" / DATA_FILE)
    assert rows["output"].to_pylist() == [row["output"] for row in kept(site)]
    assert all(row["bytes"].startswith(b"\x89PNG") for row in rows["output_media"].to_pylist())
