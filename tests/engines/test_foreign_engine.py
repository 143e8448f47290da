"""An engine of another package, as docs/engines.md writes it: installed, held to the contract, named by a campaign."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.process

CHECKOUT = Path(__file__).parents[2]
CAMPAIGN = """
name: glossary
model: tiny
num_shards: 1
prompts: {files: prompts.jsonl, per_shard: 2}
decoding: {temperature: 0, top_p: 1, max_new_tokens: 8}
engine: {name: shout, volume: VOLUME}
"""
ROWS = """
import sys
from pathlib import Path
from headrace.engines.deployment import Deployment
from headrace.engines.registry import open_engine
from headrace.engines.rows import ChainRows, GenerationRequest
from headrace.generation.campaign import load_campaign
from headrace.store.local import LocalStore
from simulation.models import model_of

campaign = load_campaign(Path(sys.argv[1]))
made = campaign.version_set({"writer": model_of("tiny", 1)})
member = made.member("writer")
rows = ChainRows.of(member, open_engine(member, made.engine, LocalStore(Path(sys.argv[1]).parent), Deployment()))
[row] = rows.generate([GenerationRequest(row_id="a", prompt="a mill", seed=1)])
print(made.engine.options, rows.deterministic, row.text)
rows.close()
"""


@pytest.fixture(scope="module")
def site_packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What an installer makes of the page's package."""
    directory = tmp_path_factory.mktemp("site-packages")
    page = (CHECKOUT / "docs/engines.md").read_text()
    module, suite = re.findall(r"```python\n(.*?)```", page, re.S)
    assert module.count("\n") <= 40
    (directory / "shouting.py").write_text(module)
    (directory / "test_shouting.py").write_text(suite)
    info = directory / "shouting-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: shouting\nVersion: 1\n")
    [point] = re.findall(r'^\[project\.entry-points\."headrace\.engines"\]\n(.*?)\n```', page, re.S | re.M)
    (info / "entry_points.txt").write_text(f"[headrace.engines]\n{point.replace(chr(34), '')}\n")
    return directory


def run(site_packages: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    # Of the plug-ins that happen to be installed here, another package has none.
    environment = os.environ | {"PYTHONPATH": str(site_packages), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    return subprocess.run([sys.executable, *arguments], env=environment, capture_output=True, text=True, timeout=120)


def test_it_keeps_the_contract(site_packages: Path) -> None:
    suite = str(site_packages / "test_shouting.py")
    ended = run(site_packages, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(site_packages), suite)
    assert ended.returncode == 0, ended.stdout
    assert "failed" not in ended.stdout
    assert " passed" in ended.stdout


def test_a_campaign_names_it_and_its_options_are_part_of_the_version_set(site_packages: Path, tmp_path: Path) -> None:
    file = tmp_path / "glossary.yaml"
    file.write_text(CAMPAIGN.replace("VOLUME", "3"))
    ended = run(site_packages, "-c", ROWS, str(file))
    assert ended.stdout.strip() == '{"volume":3} True A MILL!!!', ended.stderr


@pytest.mark.parametrize(
    ("volume", "why"),
    {"loud": "engine: volume must be a whole number, got 'loud'", "12": "volume must be from 1 to 11, got 12"}.items(),
)
def test_its_options_are_checked_when_the_file_is_loaded(
    site_packages: Path, tmp_path: Path, volume: str, why: str
) -> None:
    file = tmp_path / "glossary.yaml"
    file.write_text(CAMPAIGN.replace("VOLUME", volume))
    ended = run(site_packages, "-c", ROWS, str(file))
    assert why in ended.stderr


def test_an_editor_is_told_of_its_options(site_packages: Path) -> None:
    ended = run(site_packages, "-m", "headrace.command_line.main", "schema", "campaign")
    engines = {one["title"]: one for one in json.loads(ended.stdout)["$defs"]["EngineSettings"]["anyOf"]}
    assert engines["shout"]["properties"]["volume"]["type"] == "integer"
