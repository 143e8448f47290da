"""`dg launch` on a fresh checkout: no daemon, no webserver, an instance that nobody has opened."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from headrace.handoff.versions import HandoffStore
from headrace.rollout.layout import rollout_names
from headrace.store.local import LocalStore

pytestmark = pytest.mark.process

CHECKOUT = Path(__file__).parents[2]
PARTITION = "2026-11-22|fables-00"
# As three commands would, but Dagster is imported once.
_LAUNCH = """
import sys
from dagster_dg_cli.cli import cli
for asset, partition in zip(sys.argv[1::2], sys.argv[2::2]):
    cli.main(["launch", "--assets", asset, "--partition", partition], standalone_mode=False)
"""
CAMPAIGN = """
name: fables
num_shards: 1
prompts: {files: topics.txt, per_shard: 3}
model: echo
version: "1"
registered: false
decoding: {temperature: 0.7, top_p: 1, max_new_tokens: 8}
engine: {name: echo}
"""
CORPUS = """
name: fables
files: [fables.jsonl]
columns: {term: term, category: category, text: text}
prompt: {user: "Tell a fable of {term}."}
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "pyproject.toml").write_text(
        '[tool.dg]\ndirectory_type = "project"\n[tool.dg.project]\nroot_module = "pipelines"\n'
        'code_location_target_module = "pipelines.definitions"\ncode_location_name = "headrace"\n'
    )
    for folder in ("dagster_home", "campaigns"):
        (tmp_path / folder).mkdir()
    shutil.copy(CHECKOUT / "dagster_home/dagster.yaml", tmp_path / "dagster_home")
    (tmp_path / ".env").write_text(f"DAGSTER_HOME={tmp_path}/dagster_home\n")
    (tmp_path / "campaigns/fables.yaml").write_text(CAMPAIGN)
    (tmp_path / "topics.txt").write_text("the fox\nthe crow\nthe hare\n")
    (tmp_path / "corpus.yaml").write_text(CORPUS)
    (tmp_path / "fables.jsonl").write_text('{"term": "fox", "category": "animal", "text": "The grapes were sour."}\n')
    return tmp_path


def test_a_rollout_prompts_and_documents_are_launched_by_the_keys_of_their_files(root: Path) -> None:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HEADRACE_", "DAGSTER_"))}
    places = {"HOME": root, "CAMPAIGNS": root / "campaigns", "CORPUS": root / "corpus.yaml"}
    wanted = ["rollout", "fables", "prompts", PARTITION, "raw_documents", "shard-00"]
    launched = subprocess.run(
        [sys.executable, "-c", _LAUNCH, *wanted],
        cwd=root,
        env=kept | {f"HEADRACE_{name}": str(place) for name, place in places.items()},
        capture_output=True,
        text=True,
        check=False,
    )
    assert launched.returncode == 0, launched.stderr
    objects = LocalStore(root / "store")
    handoffs = HandoffStore(objects)
    assert rollout_names(objects) == ["fables"]
    assert handoffs.open("prompts", PARTITION).num_rows == 3
    assert handoffs.open("raw_documents", "shard-00").num_rows == 1
    assert handoffs.newest("quarantine", "shard-00") is None, "it was not asked for"
