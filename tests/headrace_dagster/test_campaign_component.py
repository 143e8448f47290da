"""`headrace_dagster.Campaign` in a project that has nothing of this one: scaffolded, launched, read by commands."""

import json
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml

from assets.generation import generated_content, prompts, reviewed_content
from headrace.clock import SystemClock
from headrace.generation.campaign import load_campaign
from headrace.handoff.layout import manifest_key
from headrace.handoff.versions import HandoffStore
from headrace.registry.mlflow_models import ModelRegistry
from headrace.store.local import LocalStore
from headrace.store.protection import Asked
from headrace.store.small_objects import PassedOver
from headrace_dagster.collection import named_by
from headrace_dagster.handoff_io import ArrowHandoffIOManager, StoreResource
from headrace_dagster.partition_keys import register_keys
from headrace_dagster.resources.campaigns import CampaignsResource
from headrace_dagster.resources.engines import EnginesResource
from headrace_dagster.resources.rollouts import RolloutsResource
from tests.docs.blocks import CHECKOUT, blocks
from tests.headrace_dagster.foreign_project import PRODUCTS, ForeignProject

ASSETS = ("prompts", "generated_content", "reviewed_content")


class Launched:
    """A project in which the documentation's commands were called; one shard of two is made."""

    def __init__(self, root: Path) -> None:
        self.project = ForeignProject(root)
        [block] = [one.text for one in blocks(CHECKOUT / "docs/other-projects.md") if "dg scaffold defs" in one.text]
        scaffold, *others = (shlex.split(line, comments=True)[1:] for line in block.splitlines())
        self.call(*scaffold)
        file = self.project.component / "campaign.yaml"
        file.write_text(file.read_text() + "num_shards: 2\n")
        stated = yaml.safe_load((self.project.component / "defs.yaml").read_text())["attributes"]
        self.day = stated["first_day"]
        self.shard = f"{self.day}|products-00"
        self.too_early = self.project.dg("launch", "--job", "products_rows", "--partition", self.shard)
        for words in others:
            self.call(*(word.replace("$(date +%F)", self.day) for word in words))
        self.call("launch", "--assets", "shop_window")

    def call(self, *words: str) -> None:
        result = self.project.dg(*words)
        assert result.exit_code == 0, result.output[-3000:]

    def rows(self) -> list[dict[str, Any]]:
        return self.project.handoffs.open("reviewed_content", self.shard).table().to_pylist()

    def metadata_of(self, *asset: str) -> dict[str, Any]:
        with self.project.instance() as instance:
            event = instance.get_latest_materialization_event(dg.AssetKey(asset))
        assert event
        assert event.asset_materialization
        return {name: value.value for name, value in event.asset_materialization.metadata.items()}


@pytest.fixture(scope="module")
def launched(tmp_path_factory: pytest.TempPathFactory) -> Launched:
    return Launched(tmp_path_factory.mktemp("shop"))


@pytest.fixture
def edited(launched: Launched, tmp_path: Path) -> Iterator[ForeignProject]:
    """The project, whose files are as before afterwards."""
    shop = launched.project.root / "shop"
    shutil.copytree(shop, tmp_path / "shop")
    yield launched.project
    shutil.rmtree(shop)
    shutil.copytree(tmp_path / "shop", shop)


def test_what_is_scaffolded_is_a_valid_component_and_a_campaign_file_like_any_other(launched: Launched) -> None:
    campaign = launched.project.component / "campaign.yaml"
    # Another checkout of the project lies elsewhere.
    assert yaml.safe_load(campaign.read_text())["prompts"]["files"] == "../../../products.csv"
    preview = launched.project.headrace("preview", str(campaign), "--json")
    assert {row["prompt"] for row in json.loads(preview.stdout)["rows"]} == {
        f"A tagline for {one}." for one in PRODUCTS
    }
    assert launched.project.headrace("check", str(campaign)).exit_code == 0


def test_content_that_is_launched_before_the_rollout_says_what_to_launch(launched: Launched) -> None:
    assert launched.too_early.exit_code == 1
    assert (
        "Campaign 'products' has no version set yet: nothing was rolled out. Call this first: "
        "dg launch --job products_roll_out"
    ) in launched.too_early.output
    assert launched.too_early.output.count("STEP_UP_FOR_RETRY") == 0


def test_the_rows_are_those_that_this_project_makes_of_the_same_campaign(launched: Launched, tmp_path: Path) -> None:
    """The same ids and bytes, though keys, resources and partitions definitions differ."""
    own = HandoffStore(LocalStore(tmp_path / "store"))
    campaigns = CampaignsResource(
        directory=str(launched.project.component), file="campaign.yaml", home=str(tmp_path), reports=str(tmp_path)
    )
    rollouts = RolloutsResource(campaigns=campaigns, engines=EnginesResource(), services=str(tmp_path))
    rollouts.tick("products", own, ModelRegistry("http://nobody.invalid"), run_id="r")
    resources: dict[str, Any] = {
        "io_manager": ArrowHandoffIOManager(url=str(tmp_path / "store")),
        "store": StoreResource(url=str(tmp_path / "store")),
        "campaigns": campaigns,
        "engines": EnginesResource(),
    }
    with dg.DagsterInstance.ephemeral() as instance:
        register_keys(instance, campaigns.campaign("products").dynamic_keys)
        dg.materialize(
            [prompts, generated_content, reviewed_content],
            partition_key=launched.shard,
            instance=instance,
            resources=resources,
        )
    for asset in ASSETS:
        theirs, ours = launched.project.handoffs.open(asset, launched.shard), own.open(asset, launched.shard)
        assert theirs.content_digest == ours.content_digest
        assert theirs.manifest.input_versions == ours.manifest.input_versions
        assert theirs.manifest.code_version == ours.manifest.code_version
        assert theirs.table().equals(ours.table())
        assert theirs.num_rows == 3


def test_a_materialization_says_which_handoff_it_named_and_a_collection_keeps_it(launched: Launched) -> None:
    handoffs, clock = launched.project.handoffs, SystemClock()
    asked = Asked(objects=handoffs.objects, now=clock.now(), clock=clock, grace_seconds=0, damaged=PassedOver())
    with launched.project.instance() as instance:
        named = {one.key for one in named_by(instance, asked)}
    sealed = {(asset, launched.shard) for asset in ASSETS} | {("rollout", "products")}
    assert named == {manifest_key(asset, partition, 1) for asset, partition in sealed}
    assert launched.metadata_of("products", "prompts")["handoff"] == "prompts"
    assert launched.metadata_of("products", "rollout")["handoff_partition"] == "products"


def test_commands_find_the_rows_from_the_projects_directory(launched: Launched) -> None:
    row = launched.rows()[0]

    traced = launched.project.headrace("trace", row["row_id"][:12])

    assert traced.exit_code == 0, traced.output
    assert row["prompt"] in traced.output


def test_each_campaign_has_reports_of_its_own(launched: Launched) -> None:
    page = launched.project.root / f".headrace/reports/products/{launched.day}.html"
    assert launched.metadata_of("products", "campaign_report")["path"] == str(page)
    assert launched.rows()[0]["prompt"] in page.read_text()


def test_the_projects_own_resources_keep_their_names(launched: Launched) -> None:
    """Its `store` is a shop in Mill Lane, and its `io_manager` keeps values in memory."""
    assert launched.metadata_of("shop_window") == {"street": "Mill Lane", "num_texts": 3}


def test_two_campaigns_live_in_one_project(edited: ForeignProject) -> None:
    assert edited.dg("scaffold", "defs", "headrace_dagster.Campaign", "green-teas").exit_code == 0

    listed = edited.dg("list", "defs", "--json")

    found = json.loads(listed.stdout)
    keys = {asset["asset_key"] for asset in found["assets"]}
    assert {"products/prompts", "green-teas/prompts", "green-teas/rollout"} < keys
    assert {job["name"] for job in found["jobs"]} >= {"green_teas_rows", "products_rows"}
    campaign = load_campaign(edited.root / "shop/defs/green-teas/campaign.yaml")
    assert (campaign.name, campaign.prompts.is_pool) == ("green-teas", True)


@pytest.mark.parametrize(
    ("file", "lines", "refusal"),
    [
        ("campaign.yaml", "modl: x\n", "campaign.yaml:11:1 has an unknown key 'modl'; did you mean 'model'?"),
        ("campaign.yaml", "num_shards: 0\n", "campaign.yaml:10:13: num_shards must be from 1 to 100,000, got 0."),
        ("campaign.yaml", "name: green.teas\n", "name must be without '.' here, since Dagster's steps are named by it"),
        ("defs.yaml", "  first_day: soon\n", "defs.yaml: first_day must be a day as YYYY-MM-DD, got 'soon'."),
    ],
    ids=["an unknown key", "a number out of range", "a dot", "no day"],
)
def test_a_broken_file_is_told_with_its_place(
    edited: ForeignProject, caplog: pytest.LogCaptureFixture, file: str, lines: str, refusal: str
) -> None:
    path = edited.component / file
    replaced = lines.strip().partition(":")[0]
    kept = [line for line in path.read_text().splitlines() if line.strip().partition(":")[0] != replaced]
    path.write_text("\n".join([*kept, lines]))

    result = edited.dg("list", "defs")

    assert result.exit_code == 1
    assert refusal in result.output + caplog.text


@pytest.mark.parametrize(
    ("options", "refusal"),
    [
        (("--prompts", "nothing.csv"), "--prompts must be a file, got "),
        (
            ("--prompts", "products.csv"),
            "--template is missing: the prompt's text, with columns in one pair of braces ({product}).",
        ),
        (
            ("--prompts", "products.csv", "--template", "A {prodct}."),
            "products.csv: missing column 'prodct', got 'product'.",
        ),
    ],
    ids=["no file", "no template", "no column"],
)
def test_what_cannot_be_scaffolded_leaves_nothing_behind(
    edited: ForeignProject, options: tuple[str, ...], refusal: str
) -> None:
    scaffold = ("scaffold", "defs", "headrace_dagster.Campaign", "teas")

    refused, again = edited.dg(*scaffold, *options), edited.dg(*scaffold)

    assert (refused.exit_code, again.exit_code) == (1, 0)
    assert "Error: " in refused.output
    assert refusal in refused.output
    assert (
        yaml.safe_load((edited.root / "shop/defs/teas/campaign.yaml").read_text())["prompts"]["files"]
        == "./prompts.txt"
    )


def test_headrace_run_says_what_runs_a_components_campaign(launched: Launched) -> None:
    result = launched.project.headrace("run", str(launched.project.component / "campaign.yaml"))

    assert result.exit_code != 0
    assert "dg launch --job products_rows --partition 'DAY|products-00'" in result.output


def test_commands_find_a_component_by_its_campaigns_name(launched: Launched) -> None:
    project = launched.project

    preview = json.loads(project.headrace("preview", "products", "--json").stdout)
    assert (preview["campaign"], len(preview["rows"])) == ("products", 5)
    refused = project.headrace("run", "products")
    assert f"products is a Component, of {project.component / 'defs.yaml'}, whose runs Dagster starts" in refused.output
    assert "dg launch --job products_rows --partition 'DAY|products-00'" in refused.output
    nobody = project.headrace("preview", "teas")
    assert "nor a Component describes the campaign 'teas'; there are products." in nobody.output


def test_check_without_a_file_checks_the_components(launched: Launched) -> None:
    checked = json.loads(launched.project.headrace("check", "--offline", "--json").stdout)
    assert [(one["kind"], one["name"]) for one in checked["files"]] == [("campaign", "products")]
    assert checked["well"]


def test_a_components_first_day_counts_where_it_is_found_by_name(edited: ForeignProject) -> None:
    defs = edited.component / "defs.yaml"
    stated = yaml.safe_load(defs.read_text())
    stated["attributes"]["first_day"] = "2999-01-01"
    defs.write_text(yaml.safe_dump(stated))
    assert "--day must not be before 2999-01-01" in edited.headrace("preview", "products").output


def test_status_tells_the_store_where_there_is_no_instance(launched: Launched) -> None:
    found = json.loads(launched.project.headrace("status", "--json").stdout)
    assert [(day["campaign"], day["num_reviewed_content"]) for day in found["days"]] == [("products", 1)]
    assert (found["knows_runs"], found["num_running"], found["daemon_silent_seconds"]) == (False, 0, None)
    assert "DAGSTER_HOME is not set, so runs are unknown" in launched.project.headrace("status").output


def test_two_components_that_dagster_would_call_alike_are_refused_with_both_files(
    edited: ForeignProject, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("green-teas", "green_teas"):
        directory = edited.root / "shop/defs" / name
        shutil.copytree(edited.component, directory)
        file = directory / "campaign.yaml"
        file.write_text(file.read_text().replace("name: products", f"name: {name}"))
    first, second = (edited.root / "shop/defs" / name / "campaign.yaml" for name in ("green-teas", "green_teas"))

    result = edited.dg("list", "defs")
    checked = edited.headrace("check", "--offline")

    sentence = (
        f"Campaign file {first}: name must differ from other Components' in more than '-' and '_', since Dagster's "
        f"jobs are named by it, got 'green-teas', and 'green_teas' in {second}. Rename one."
    )
    assert result.exit_code == 1
    assert sentence in result.output + caplog.text
    assert checked.exit_code == 1
    assert sentence in checked.output
