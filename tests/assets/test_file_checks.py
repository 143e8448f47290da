"""The checks of users' files as Dagster runs them: red for the kind of the broken file, with its faults as text."""

from pathlib import Path

import dagster as dg
import pytest

from assets.file_checks import file_checks
from resources.deployment import deployment_resources
from resources.settings import settings_from_environment


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with one readable recipe, no service, and a corpus file and a campaign that are broken."""
    for path, text in {
        "campaigns/bad.yaml": "name: bad\nnum_shards: two\nprompts: {files: p.jsonl, per_shard: x}\n",
        "campaigns/torn.yaml": "name: [",
        "recipes/define.yaml": "name: define\nmodel: tiny\nsteps: 10\nbatch: 4\nlearning_rate: 1.0e-3\n",
        "corpus.yaml": "name: notes\nfiles: [a]\nprompt: {user: 'Say it.'}\nencoding: base64\n",
    }.items():
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text(text)
    monkeypatch.setenv("HEADRACE_HOME", str(tmp_path))
    monkeypatch.setenv("HEADRACE_CORPUS", str(tmp_path / "corpus.yaml"))
    for kind in ("campaigns", "recipes"):
        monkeypatch.setenv(f"HEADRACE_{kind.upper()}", str(tmp_path / kind))
    return tmp_path


def test_a_broken_file_fails_the_check_of_its_kind_and_is_named_with_all_its_faults(home: Path) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        run = dg.materialize(
            file_checks,
            selection=dg.AssetSelection.all_asset_checks(),
            instance=instance,
            resources=deployment_resources(settings_from_environment()),
        )
    assert run.success, "a failed check ends no run"
    found = {one.check_name: one for one in run.get_asset_check_evaluations()}
    assert {name: one.passed for name, one in found.items()} == {
        "campaign_files_can_be_read": False,
        "corpus_files_can_be_read": False,
        # A project may have no pictures.
        "images_files_can_be_read": True,
        "recipe_files_can_be_read": True,
        "service_files_can_be_read": True,
    }
    campaigns = found["campaign_files_can_be_read"]
    assert campaigns.asset_key == dg.AssetKey("prompts")
    assert campaigns.metadata["num_broken"].value == 2
    first = str(campaigns.metadata["file_1"].value)
    assert first.startswith(f"Campaign file {home}/campaigns/bad.yaml has ")
    assert f"{home}/campaigns/bad.yaml:2:13: num_shards must be a whole number, got 'two'." in first
    assert "torn.yaml" in (campaigns.description or "")
    corpus = found["corpus_files_can_be_read"].metadata["file_1"].value
    assert f"{home}/corpus.yaml:4:11: encoding must be a text encoding that Python knows, got 'base64'." in str(corpus)
