"""A row leads back to the line of its prompt file; the places change no digest."""

import csv
import gzip
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from headrace.generation.campaign import PromptSource
from headrace.generation.prompt_places import TracedPlace, place_of, seal_places
from headrace.generation.requests import prompts_for, prompts_with_places
from headrace.handoff.versions import Handoff, HandoffStore
from headrace.store.local import LocalStore
from tests.generation.builders import make_campaign, make_partition

# Texts with line breaks inside, so that lines and records differ.
TEXTS = ["Tell of\na kettle.", "Tell of a lamp.", "Tell of\r\n\r\na tent.", "Tell of a pan."]


def write_csv(file: Path) -> None:
    with file.open("w", newline="") as out:
        csv.writer(out).writerows([["text"], *[[text] for text in TEXTS]])


def write_jsonl(file: Path) -> None:
    # An empty line is no prompt, and a line.
    file.write_text("\n\n".join(json.dumps({"text": text}) for text in TEXTS) + "\n")


def write_parquet(file: Path) -> None:
    pq.write_table(pa.table({"text": TEXTS}), file, row_group_size=2)


def write_text(file: Path) -> None:
    file.write_text("# first\n\n" + "\n".join(text.split()[-1] for text in TEXTS) + "\n")


def write_gzip(file: Path) -> None:
    file.write_bytes(gzip.compress("".join(json.dumps({"text": text}) + "\n" for text in TEXTS).encode()))


def table_of(home: Path, **changes: Any) -> list[tuple[str, str, int, str]]:
    """(text, file, number, unit) of every prompt of the day, in the order of shards."""
    campaign = make_campaign(**{"num_shards": 3, "prompts": PromptSource(files="in/*")} | changes)
    found = []
    for shard in range(campaign.num_shards):
        prompts, places = prompts_with_places(campaign, make_partition(shard), home)
        assert prompts.equals(prompts_for(campaign, make_partition(shard), home)), "places are no part of the prompts"
        assert places["position"].to_pylist() == prompts["position"].to_pylist()
        rows = places.to_pylist()
        found += [
            (text, row["file"], row["number"], row["unit"])
            for text, row in zip(prompts["text"].to_pylist(), rows, strict=True)
        ]
    return found


@pytest.mark.parametrize(
    ("name", "write"),
    [("a.csv", write_csv), ("a.jsonl", write_jsonl), ("a.txt", write_text), ("a.jsonl.gz", write_gzip)],
)
def test_the_line_is_the_one_that_an_editor_shows(tmp_path: Path, name: str, write: Callable[[Path], None]) -> None:
    (tmp_path / "in").mkdir()
    file = tmp_path / "in" / name
    write(file)
    raw = gzip.decompress(file.read_bytes()) if name.endswith(".gz") else file.read_bytes()
    lines = raw.decode().replace("\r\n", "\n").split("\n")
    found = table_of(tmp_path)
    assert len(found) >= len(TEXTS)
    for text, where, number, unit in found:
        assert (where, unit) == (f"in/{name}", "line")
        # What begins there is the prompt, in the file's own spelling.
        assert json.dumps(text.splitlines()[0])[1:-1] in lines[number - 1]


def test_parquet_has_rows_and_a_file_elsewhere_its_whole_path(tmp_path: Path) -> None:
    write_parquet(tmp_path / "pool.parquet")
    home = tmp_path / "home"
    home.mkdir()
    file = str(tmp_path / "pool.parquet")
    found = table_of(home, prompts=PromptSource(files=file))
    assert sorted(found) == sorted((text, file, number, "row") for number, text in enumerate(TEXTS, 1))


def test_prompts_that_are_drawn_from_a_pool_of_several_files_keep_their_places(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for name in ("a", "b"):
        (tmp_path / f"in/{name}.txt").write_text("".join(f"{name} {number}\n" for number in range(1, 21)))
    found = table_of(tmp_path, prompts=PromptSource(files="in/*", per_shard=5, variations=2))
    assert len(found) == 15
    assert {where for _, where, _, _ in found} == {"in/a.txt", "in/b.txt"}
    assert all(f"in/{text[0]}.txt:{text[2:]}" == f"{where}:{number}" for text, where, number, _ in found)


class Listed:
    """A partition's prompts, sealed with their places."""

    def __init__(self, root: Path) -> None:
        self.home, self.handoffs = root / "home", HandoffStore(LocalStore(root / "store"))
        self.file = self.home / "prompts.jsonl"
        self.home.mkdir()
        write_jsonl(self.file)
        self.prompts = self.seal()

    def seal(self) -> Handoff:
        campaign = make_campaign(num_shards=1, prompts=PromptSource(files="*.jsonl"))
        key = make_partition().key
        prompts, places = prompts_with_places(campaign, make_partition(), self.home)
        seal_places(self.handoffs, key, prompts, places, run_id="r")
        return self.handoffs.publish("prompts", key, prompts, code_version="1", run_id="r")

    def place(self, position: int = 1) -> TracedPlace | None:
        return place_of(self.handoffs, self.prompts, position, self.home)


@pytest.fixture
def listed(tmp_path: Path) -> Listed:
    return Listed(tmp_path)


def test_a_file_that_changed_or_is_gone_is_said(listed: Listed) -> None:
    wanted = TracedPlace(file="prompts.jsonl", number=3, unit="line", path=listed.file, now="unchanged")
    assert listed.place() == wanted
    # A copy with the same bytes is the same file.
    os.utime(listed.file, (0, 0))
    assert listed.place() == wanted
    listed.file.write_text(listed.file.read_text().replace("lamp", "limp"))
    changed = listed.place()
    assert changed is not None
    assert (changed.number, changed.now) == (3, "changed")
    listed.file.unlink()
    gone = listed.place()
    assert gone is not None
    assert gone.now == "gone"


def test_a_list_that_moved_keeps_its_prompts_and_gets_new_places(listed: Listed) -> None:
    listed.file.write_text("\n" + listed.file.read_text())
    again = listed.seal()
    assert (again.version, again.reused) == (1, True)
    place = listed.place()
    assert place is not None
    assert (place.number, place.now) == (4, "unchanged")
    # Another list meanwhile does not hide them.
    listed.file.write_text('{"text": "Tell of a sofa."}\n')
    assert listed.seal().version == 2
    old = listed.place()
    assert old is not None
    assert (old.number, old.now) == (4, "changed")


def test_prompts_of_an_earlier_release_have_no_places(listed: Listed) -> None:
    key = make_partition(1).key
    old = listed.handoffs.publish("prompts", key, listed.prompts.table(), code_version="1", run_id="r")
    assert place_of(listed.handoffs, old, 1, listed.home) is None
