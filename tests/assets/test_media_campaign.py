"""A campaign that writes, paints and speaks, in Dagster: in one run, or in a run for each step."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml

from assets.generation import clips, generated_content, generated_images, generated_speech, prompts, reviewed_content
from assets.generation_checks import content_rows_checks, schema_checks
from headrace.clock import SystemClock
from headrace.generation.campaign import load_campaign
from headrace.handoff.media.reading import MediaSet
from headrace.handoff.versions import HandoffStore
from headrace.rollout.journal import Journal
from headrace.rollout.states import INITIALIZED, STARTED
from headrace.store.local import LocalStore
from headrace.version_sets.sets import VersionSets
from headrace_dagster.handoff_io import ArrowHandoffIOManager, StoreResource
from headrace_dagster.partition_keys import register_keys
from headrace_dagster.resources.campaigns import CampaignsResource
from headrace_dagster.resources.engines import EnginesResource
from tests.engines.host.hosts import running_host
from tests.generation.media_builders import campaign_file

PARTITION = "2026-11-01|tales-00"
CAMPAIGN = campaign_file(num_shards=1, files="tales.jsonl", picture="{width: 32, height: 32}")
_MEDIA = (generated_content, generated_images, generated_speech)


class Project:
    def __init__(self, directory: Path, instance: dg.DagsterInstance) -> None:
        self.directory = directory
        self.instance, self.handoffs = instance, HandoffStore(LocalStore(directory / "store"))
        campaigns = CampaignsResource(
            directory=str(directory / "campaigns"), home=str(directory), reports=str(directory / "reports")
        )
        self.campaign = campaigns.campaign("tales")
        self.resources: dict[str, Any] = {
            "io_manager": ArrowHandoffIOManager(url=str(directory / "store")),
            "store": StoreResource(url=str(directory / "store")),
            "campaigns": campaigns,
            "engines": EnginesResource(),
        }

    def materialize(self, *assets: Any, selection: dg.AssetSelection | None = None) -> dg.ExecuteInProcessResult:
        return dg.materialize(
            [prompts, *_MEDIA, reviewed_content, clips, *schema_checks, content_rows_checks],
            selection=selection or dg.AssetSelection.assets(*assets),
            partition_key=PARTITION,
            instance=self.instance,
            resources=self.resources,
        )

    def metadata(self, result: dg.ExecuteInProcessResult, asset: str) -> dict[str, Any]:
        [event] = result.asset_materializations_for_node(asset)
        return {name: value.value for name, value in event.metadata.items()}


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    rows = [{"term": f"mill {n}", "text": f"Tell of mill {n}."} for n in range(5)]
    (tmp_path / "tales.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "campaigns").mkdir()
    (tmp_path / "campaigns/tales.yaml").write_text(CAMPAIGN)
    with dg.DagsterInstance.ephemeral() as instance:
        project = Project(tmp_path, instance)
        register_keys(instance, project.campaign.dynamic_keys)
        version_set = project.campaign.version_set({})
        VersionSets(project.handoffs.objects).put(version_set)
        entry = {"version_set": version_set.id, "weights_digest": version_set.weights_digest, "reason": "first"}
        Journal(project.handoffs.objects, "tales", SystemClock()).append(INITIALIZED, entry, expected=0)
        project.materialize(prompts)
        yield project


def reviewed(project: Project) -> list[dict[str, Any]]:
    return project.handoffs.open("reviewed_content", PARTITION).table().to_pylist()


def test_one_run_makes_and_reviews_all_parts_of_a_row(project: Project) -> None:
    result = project.materialize(*_MEDIA, reviewed_content)
    rows = reviewed(project)
    assert [[one["role"] for one in row["media"]] for row in rows] == [["painter", "speaker"]] * 5
    assert all(row["kept"] for row in rows)
    pictures = MediaSet.open(project.handoffs.open("generated_images", PARTITION))
    first = rows[0]["media"][0]
    assert pictures.read(first["item_id"]).startswith(b"\x89PNG")
    assert pictures.item(first["item_id"]).caption == f"mill 0: {rows[0]['output']}"
    assert project.metadata(result, "generated_speech")["num_items"] == 5
    # The pages of the parts that waited for the last one.
    observed = [one.asset_observation_data.asset_observation for one in result.get_asset_observation_events()]
    seen = {one.asset_key.path[-1]: one.metadata for one in observed if one.partition == PARTITION}
    assert str(seen["generated_images"]["thumbnails"].value).startswith("![5 items](data:image/")
    assert "**5 rows**" in str(seen["generated_content"]["summary"].value)


def test_checks_of_texts_wait_for_the_parts_that_are_sealed_with_them(project: Project) -> None:
    early = project.materialize(generated_content).get_asset_check_evaluations()
    late = project.materialize(*_MEDIA).get_asset_check_evaluations()
    told = (
        "Not examined: nothing is sealed before painter and speaker made all parts; the job that makes the last one "
        "examines the texts, too."
    )
    assert {one.description for one in early} == {told}
    assert {one.check_name for one in late} >= {"schema", "rows_match_prompts", "one_version_set"}
    assert all(one.passed for one in (*early, *late))
    assert told not in {one.description for one in late}


def test_the_job_of_the_last_part_examines_the_texts_that_it_seals(project: Project) -> None:
    project.materialize(generated_content)
    kept: list[dict[str, bool]] = []
    texts = dg.AssetSelection.assets(generated_content)
    for made in (generated_speech, generated_images):
        # As the jobs paint and speak have it (tests/definitions/test_asset_graph.py).
        result = project.materialize(selection=dg.AssetSelection.assets(made) | (texts - texts.without_checks()))
        assert [one.asset_key for one in result.get_asset_materialization_events()] == [made.key]
        evaluated = result.get_asset_check_evaluations()
        assert all(one.passed and one.asset_key.path == ["generated_content"] for one in evaluated)
        kept.append({one.check_name: str(one.description).startswith("Not examined") for one in evaluated})
    names = {"schema", "rows_match_prompts", "row_ids_unique", "one_version_set"}
    assert kept == [dict.fromkeys(names, True), dict.fromkeys(names, False)]


def test_pages_of_pictures_tell_no_tokens(project: Project) -> None:
    result = project.materialize(*_MEDIA)
    assert "num_tokens_now" in project.metadata(result, "generated_content")
    assert not {"num_tokens_now", "tokens_per_second"} & {*project.metadata(result, "generated_images")}


def test_each_step_can_be_a_run_of_its_own(project: Project) -> None:
    asked = project.metadata(project.materialize(generated_content), "generated_content")
    assert asked["waits_for"] == "painter, speaker"
    early = project.metadata(project.materialize(reviewed_content), "reviewed_content")
    assert early == {
        "waits_for": "painter and speaker: nothing of a row is published before all of its parts are made."
    }
    project.materialize(generated_images)
    assert project.handoffs.newest("generated_content", PARTITION) is None
    project.materialize(generated_speech)
    project.materialize(reviewed_content)
    assert len(reviewed(project)) == 5
    again = project.metadata(project.materialize(*_MEDIA), "generated_content")
    assert again["reused"]
    assert again["num_rows_generated_now"] == 0


def test_films_are_made_where_a_campaign_asks_for_them(project: Project, tmp_path: Path) -> None:
    made = project.materialize(*_MEDIA, reviewed_content, clips)
    assert project.metadata(made, "clips") == {
        "num_items": 0,
        "left_out": "tales asks for no films: its file has no clips.",
    }
    assert project.handoffs.newest("clips", PARTITION) is None
    (tmp_path / "campaigns/tales.yaml").write_text(CAMPAIGN + "clips: {pixels_min: 64}\n")
    figures = project.metadata(project.materialize(clips), "clips")
    assert (figures["num_items"], figures["reused"]) == (5, False)
    assert figures["thumbnails"].startswith("![5 items](data:image/")
    films = MediaSet.open(project.handoffs.open("clips", PARTITION))
    assert [item.row_id for item in films] == [row["row_id"] for row in reviewed(project)]
    assert {(item.width, item.height) for item in films} == {(64, 64)}
    assert set(films.handoff.manifest.input_versions) == {
        f"{asset}[{PARTITION}]" for asset in ("generated_content", "generated_images", "generated_speech")
    }
    assert project.metadata(project.materialize(clips), "clips")["reused"]


def test_films_wait_for_the_last_part(project: Project, tmp_path: Path) -> None:
    (tmp_path / "campaigns/tales.yaml").write_text(CAMPAIGN + "clips: {}\n")
    project.materialize(generated_content, generated_images)
    assert "painter and speaker" in project.metadata(project.materialize(clips), "clips")["waits_for"]


def without(campaign: str, role: str) -> str:
    described = yaml.safe_load(campaign)
    del described["roles"][role]
    return yaml.safe_dump(described | {"chain": [one for one in described["chain"] if one != role]})


def change_file(project: Project, text: str) -> None:
    (project.directory / "campaigns/tales.yaml").write_text(text)


def test_a_painter_that_left_the_file_still_paints_what_its_set_has_begun(project: Project) -> None:
    project.materialize(generated_content)
    change_file(project, without(CAMPAIGN, "painter"))
    waits = project.metadata(project.materialize(reviewed_content), "reviewed_content")["waits_for"]
    assert waits.startswith("painter and speaker")
    project.materialize(generated_images, generated_speech, reviewed_content)
    assert [[one["role"] for one in row["media"]] for row in reviewed(project)] == [["painter", "speaker"]] * 5


def test_a_painter_that_is_new_in_the_file_waits_for_its_set(project: Project) -> None:
    version_set = load_campaign(project.directory / "campaigns/tales.yaml")
    change_file(project, without(CAMPAIGN, "painter"))
    small = load_campaign(project.directory / "campaigns/tales.yaml").version_set({})
    VersionSets(project.handoffs.objects).put(small)
    journal = Journal(project.handoffs.objects, "tales", SystemClock())
    body = {"version_set": small.id, "weights_digest": small.weights_digest, "num_rows": 0, "reason": ""}
    journal.append(STARTED, body | {"step": 0, "weight": 1.0, "cap": None}, expected=journal.head())
    project.materialize(generated_content)
    change_file(project, CAMPAIGN)
    assert version_set.makers == ("painter", "speaker")
    result = project.materialize(*_MEDIA, reviewed_content)
    assert "makes no image" in project.metadata(result, "generated_images")["left_out"]
    assert [[one["role"] for one in row["media"]] for row in reviewed(project)] == [["speaker"]] * 5


@pytest.mark.process
def test_a_run_asks_the_engine_host_that_its_resource_names(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with running_host() as host:
        project.resources["engines"] = EnginesResource(host=str(host.socket_file))
        result = project.materialize(*_MEDIA, reviewed_content)
        hits = {row.model: row.hits for row in host.table.data}
    # Of texts that wait for a painter, of pictures that wait for a speaker, and of what was made last.
    for asset in ("generated_content", "generated_images", "generated_speech"):
        [head, _, *rows] = project.metadata(result, asset)["models_in_memory"].splitlines()
        assert head.startswith("|model|place|state|kept|since|")
        assert any(row.startswith("|pen 1 (echo)|cpu|on the device|") for row in rows), asset
    assert hits == {"pen 1 (echo)": 3, "brush 1 (echo)": 3, "voice 1 (echo)": 3}
    assert [row["kept"] for row in reviewed(project)] == [True] * 5
