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

import dagster as dg
import jsonschema
import psutil
import pytest

from headrace.generation.micro_batches import committed
from headrace.generation.under_way import claims_under_way
from headrace.handoff.media.reading import MediaSet
from headrace.handoff.versions import HandoffStore
from headrace.store.local import LocalStore
from headrace_dagster.launchers.run_processes import RunProcesses
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


NUM_TALES, NUM_SHOWN = 150, 20
TALES = """\
name: tales
prompts: {files: ROOT/tales.jsonl, column: text}
chain: [writer, painter]
roles:
  writer: {model: pen, version: "1", registered: false, engine: {name: echo}}
  painter:
    model: brush
    version: "1"
    registered: false
    engine: {name: echo}
    picture: {width: 512, height: 512}
micro_batch_rows: 1
apart: {}
"""


def test_a_steps_own_run_that_is_killed_is_gone_on_with_and_paints_the_same_bytes(project: Project) -> None:
    root = project.root
    (root / "tales.jsonl").write_text(
        "".join(json.dumps({"text": f"Tell of mill {n}."}) + "\n" for n in range(NUM_TALES))
    )
    (root / "campaigns").mkdir(exist_ok=True)
    (root / "campaigns/tales.yaml").write_text(TALES.replace("ROOT", str(root)))
    shown = json.loads(project.call("preview", "tales", "--day", DAY, "-n", str(NUM_SHOWN), "--json"))["rows"]
    objects, key = LocalStore(root / ".headrace/store"), f"{DAY}|tales-00"

    def painted() -> set[int]:
        claim = claims_under_way(objects, "tales").get(key)
        return committed(objects, claim, "painter") if claim else set()

    # Opened before it is needed, since the pictures are painted within seconds.
    with dg.DagsterInstance.from_config(str(root / "dagster_home")) as instance:
        walking = project.start("run", "tales", "--day", DAY, "--json")
        eventually(lambda: len(painted()) > 2, "some pictures are made", seconds=120)
        [first] = [run for run in instance.get_runs() if run.job_name == "paint"]
        for pid, _ in RunProcesses().by_run()[first.run_id]:
            os.kill(pid, signal.SIGKILL)
        left = painted()
        assert 2 < len(left) < NUM_TALES, "it was killed in the middle of its work"
        output, errors = walking.communicate(timeout=240)
        assert walking.returncode == 0, errors
        second, again = [run for run in instance.get_runs() if run.job_name == "paint"]
        assert (again.run_id, again.status.value) == (first.run_id, "FAILURE")
        assert second.root_run_id == first.run_id
        figures = instance.get_latest_materialization_event(dg.AssetKey("generated_images"))
    assert figures
    assert figures.asset_materialization
    assert figures.asset_materialization.metadata["num_rows_generated_now"].value == NUM_TALES - len(left)
    assert json.loads(output)["num_rows"] == NUM_TALES
    pictures = MediaSet.open(HandoffStore(objects).open("generated_images", key))
    wanted = {f"{row['row_id']}/painter": Path(row["parts"][0]["file"]).read_bytes() for row in shown}
    pictures.verify()
    assert len(pictures) == NUM_TALES
    assert {one: pictures.read(one) for one in wanted} == wanted
