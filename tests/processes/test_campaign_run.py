"""`headrace run`: from somebody's prompts to reviewed rows on a real daemon, killed and called again."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import psutil
import pytest

from headrace.handoff.versions import HandoffStore
from headrace.store.local import LocalStore
from pipelines.object_store import free_ports
from tests.waiting import eventually

pytestmark = pytest.mark.process

CHECKOUT = Path(__file__).parents[2]
DAY = "2026-11-22"
PRODUCTS = ["kettle", "lamp", "rucksack", "sofa", "tent", "pan"]


class Project:
    """A project of its own with this checkout's definitions: state, instance and campaigns in a test's directory."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "pyproject.toml").write_text(
            "[tool.dg.project]\n"
            'root_module = "pipelines"\ncode_location_target_module = "pipelines.definitions"\n'
            'code_location_name = "headrace"\n'
        )
        (root / "dagster_home").mkdir()
        shutil.copy(CHECKOUT / "dagster_home/dagster.yaml", root / "dagster_home")
        (root / ".env").write_text(
            f"DAGSTER_HOME={root}/dagster_home\nHEADRACE_CAMPAIGNS={root}/campaigns\nHEADRACE_HOME={root}/.headrace\n"
            # Another test on this machine may want the usual one.
            f"HEADRACE_PORT={free_ports(1)[0]}\n"
        )
        self.write(PRODUCTS)

    def write(self, products: list[str]) -> None:
        (self.root / "products.csv").write_text("\n".join(["product", *products]) + "\n")

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("HEADRACE_", "DAGSTER_"))}
        return subprocess.Popen(
            [sys.executable, "-m", "headrace.command_line.main", *arguments],
            cwd=self.root,
            env=kept,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def call(self, *arguments: str) -> str:
        process = self.start(*arguments)
        output, errors = process.communicate(timeout=240)
        assert process.returncode == 0, errors
        return output

    def run(self, *more: str) -> dict[str, Any]:
        body = json.loads(self.call("run", "products", "--day", DAY, "--json", *more))
        jsonschema.validate(body, json.loads((CHECKOUT / "docs/schemas/run.schema.json").read_text()))
        return body

    def has_listed(self, process: subprocess.Popen[str]) -> bool:
        assert process.poll() is None or process.stderr is None, process.communicate()[1]
        return self.num_versions["prompts"] == 1

    @property
    def num_versions(self) -> dict[str, int]:
        handoffs = HandoffStore(LocalStore(self.root / ".headrace/store"))
        assets = ("prompts", "generated_content", "reviewed_content")
        return {asset: handoffs.last_number(asset, f"{DAY}|products-00") for asset in assets}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    root = tmp_path_factory.mktemp("own")
    yield Project(root)
    # A killed command's children end by themselves; what a test started is not left to that.
    for process in psutil.process_iter(["cmdline", "cwd"]):
        if process.info["cwd"] == str(root):
            process.kill()


def test_a_killed_run_goes_on_with_the_rows_that_the_preview_showed(project: Project) -> None:
    """One story, since each start of Dagster's services costs ten seconds."""
    project.call("init", "--prompts", "products.csv", "--template", "A tagline for {product}.", "--engine", "echo")
    previewed = json.loads(project.call("preview", "products", "--day", DAY, "-n", "4", "--json"))["rows"]
    planned = project.call("run", "products", "--day", DAY, "--dry-run")
    assert "rollout[products]" in planned

    killed = project.start("run", "products", "--day", DAY, "--json")
    eventually(lambda: project.has_listed(killed), "the prompts are listed", seconds=120)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    made = project.run()

    assert (made["num_rows"], made["num_kept"]) == (len(PRODUCTS), len(PRODUCTS))
    rows = {row["row_id"]: row["output"] for row in made["rows"]}
    assert {row["row_id"]: row["output"] for row in previewed}.items() <= rows.items()
    assert Path(made["report"]).is_file()
    assert set(project.num_versions.values()) == {1}

    again = project.run()
    assert again["rows"] == made["rows"], "nothing was missing, so nothing was made"
    assert set(project.num_versions.values()) == {1}

    project.write([*PRODUCTS, "spoon"])
    changed = project.run()
    assert changed["num_rows"] == len(PRODUCTS) + 1
    assert rows.items() <= {row["row_id"]: row["output"] for row in changed["rows"]}.items()
