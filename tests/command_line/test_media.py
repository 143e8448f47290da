"""Media through the command: shown, verified item by item, exported in their own formats."""

import os
import tarfile
from pathlib import Path

import pytest

from headrace.handoff.media.index import MediaItem
from headrace.handoff.media.publishing import publish_media
from headrace.handoff.versions import HandoffStore
from headrace.store.local import LocalStore
from tests.command_line.builders import run


@pytest.fixture
def media(tmp_path: Path) -> Path:
    items = [MediaItem(item_id=f"i{n}", media_type="image/png", content=bytes([n]) * 1000) for n in range(4)]
    handoffs = HandoffStore(LocalStore(tmp_path / "store"))
    publish_media(handoffs, "generated_images", "all", items, code_version="c", run_id="r")
    return tmp_path / "store"


def test_show_says_what_the_shards_take(media: Path) -> None:
    assert "4.1 KB in 1 shard" in run("handoff", "show", "generated_images", store=media).stdout


def test_verify_reads_every_item(media: Path) -> None:
    assert run("handoff", "verify", "generated_images", store=media).exit_code == 0
    (shard,) = media.rglob("*.media")
    body = bytearray(shard.read_bytes())
    body[1500] ^= 1
    shard.unlink()
    shard.write_bytes(body)
    damaged = run("handoff", "verify", "generated_images", store=media)
    assert (damaged.exit_code, "item 'i1'" in damaged.stdout) == (1, True)


def test_media_are_exported_as_files_tars_or_parquet(media: Path, tmp_path: Path) -> None:
    folder = ["handoff", "export", "generated_images", "all", tmp_path / "pictures", "--format", "folder"]
    assert run(*folder, store=media).exit_code == 0
    assert (tmp_path / "pictures/i2.png").read_bytes() == b"\x02" * 1000
    assert run(*folder, store=media).exit_code == 2
    (tmp_path / "pictures/i2.png").unlink()
    assert run(*folder, "--force", store=media).exit_code == 0
    assert (tmp_path / "pictures/i2.png").exists()
    assert run("handoff", "export", "generated_images", "all", tmp_path / "c-%06d.tar", store=media).exit_code == 0
    with tarfile.open(tmp_path / "c-000000.tar") as tar:
        assert "i3.png" in tar.getnames()
    assert run("handoff", "export", "generated_images", "all", tmp_path / "c.parquet", store=media).exit_code == 0
    assert {path.name for path in tmp_path.iterdir()} == {"store", "pictures", "c-000000.tar", "c.parquet"}


@pytest.mark.parametrize(
    ("target", "told"), [("pipe", "is a pipe, and only a file is ever replaced"), ("-", "Media cannot go to stdout")]
)
def test_media_take_no_pipes_place(
    media: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str, told: str
) -> None:
    monkeypatch.chdir(tmp_path)
    os.mkfifo("pipe")
    refused = run("handoff", "export", "generated_images", "all", target, "-f", "folder", "--force", store=media)
    assert (refused.exit_code, told in refused.stderr) == (2, True)
    assert {path.name for path in tmp_path.iterdir()} == {"store", "pipe"}
    assert Path("pipe").is_fifo()


def test_a_forced_export_that_fails_leaves_what_was_there(media: Path, tmp_path: Path) -> None:
    (shard,) = media.rglob("*.media")
    shard.unlink()
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures/mine").write_text("kept")
    forced = ["handoff", "export", "generated_images", "all", tmp_path / "pictures", "-f", "folder", "--force"]
    assert run(*forced, store=media).exit_code == 2
    assert (tmp_path / "pictures/mine").read_text() == "kept"


def test_the_index_is_exported_as_text(media: Path) -> None:
    columns = ["--columns", "item_id,num_bytes"]
    result = run("handoff", "export", "generated_images", "all", "-", "-f", "csv", *columns, store=media)
    assert result.stdout.splitlines()[:2] == ["item_id,num_bytes", "i0,1000"]
