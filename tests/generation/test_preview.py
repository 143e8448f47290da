"""A preview's rows are those of the full run, byte for byte, and it leaves nothing behind."""

from dataclasses import replace
from pathlib import Path

import pytest

from headrace.clock import FixedClock, SystemClock
from headrace.engines.deployment import Deployment
from headrace.engines.media_rows import open_media_rows
from headrace.engines.roles import EngineSettings, Role
from headrace.engines.rows import open_rows
from headrace.errors import InvalidInput
from headrace.generation.bulk import Worker, generate_partition
from headrace.generation.campaign import Campaign, PromptSource
from headrace.generation.claims import Claims
from headrace.generation.preview import Preview, WantedSet, preview, wanted_set
from headrace.generation.requests import prompts_for
from headrace.handoff.media.reading import MediaSet
from headrace.handoff.versions import HandoffStore
from headrace.keys import ContentPartition
from headrace.registry.registered import registered_models
from headrace.rollout.journal import Journal
from headrace.rollout.states import RolloutState
from headrace.store.local import LocalStore
from headrace.store.sealed_directory import digest_of_directory
from headrace.store.small_objects import PassedOver
from headrace.version_sets.sets import Decoding, VersionSets
from simulation.models import model_of
from tests.generation.media_builders import make_roles

DAY = "2026-11-22"
PROMPTS = ["Define the noun weir.", "Define it.", "Say what a mill wheel is for.", "Name a vessel.", "Turn it around."]


def campaign_of(**changes: object) -> Campaign:
    fields = {
        "name": "tales",
        "num_shards": 2,
        "prompts": PromptSource(files="prompts-{day}.txt"),
        "model": "echo",
        "version": "1",
        "registered": False,
        "decoding": Decoding(temperature=0.8, top_p=0.9, max_new_tokens=6),
        "engine": EngineSettings("echo"),
        "micro_batch_rows": 2,
    }
    return Campaign(**{**fields, **changes})  # pyright: ignore[reportArgumentType]


class Site:
    def __init__(self, home: Path) -> None:
        self.home = home
        (home / f"prompts-{DAY}.txt").write_text("\n".join(PROMPTS))
        self.handoffs = HandoffStore(LocalStore(home / "store"))

    def wanted(self, campaign: Campaign) -> WantedSet:
        models = registered_models(self.handoffs, damaged=PassedOver())
        return wanted_set(campaign, models, state=None, home=self.home, version_of=lambda *_: "1")

    def preview(self, campaign: Campaign, num_rows: int = 3, media: Path | None = None) -> Preview:
        wanted = self.wanted(campaign)
        deployment = Deployment.of_bulk(unsealed=wanted.unsealed)
        return preview(
            campaign,
            wanted,
            day=DAY,
            home=self.home,
            num_rows=num_rows,
            open_engine=lambda one: open_rows(one, self.handoffs.objects, deployment),
            open_media=lambda one, role: open_media_rows(one, role, self.handoffs.objects, deployment),
            media=media,
        )

    def run(self, campaign: Campaign, wanted: WantedSet) -> dict[str, str]:
        """Row id → output, of the whole day as runs make it."""
        objects, journal = self.handoffs.objects, Journal(self.handoffs.objects, campaign.name, FixedClock())
        VersionSets(objects).put(wanted.version_set)
        fields = {"version_set": wanted.version_set.id, "weights_digest": "w", "reason": "a test"}
        journal.append("initialized", fields, expected=0)
        claims = Claims(objects=objects, journal=journal, clock=SystemClock())
        deployment, rows = Deployment.of_bulk(unsealed=wanted.unsealed), {}
        for key in campaign.partition_keys(DAY):
            partition = ContentPartition.parse(key)
            prompts = self.handoffs.publish(
                "prompts", key, prompts_for(campaign, partition, self.home), code_version="1", run_id="r"
            )
            made = generate_partition(
                claims.open(campaign, partition, prompts, root_run_id=f"run {key}"),
                campaign=campaign,
                claims=claims,
                handoffs=self.handoffs,
                open_engine=lambda one: open_rows(one, objects, deployment),
                open_media=lambda one, role: open_media_rows(one, role, objects, deployment),
                worker=Worker(run_id="r", host="h"),
            )
            rows |= {row["row_id"]: row["output"] for row in made.content.table().to_pylist()}
        return rows


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def test_the_first_prompts_are_shown_in_the_order_of_the_day(site: Site) -> None:
    made = site.preview(campaign_of())

    assert [one.prompt for one in made.rows] == PROMPTS[:3]
    assert [one.partition for one in made.rows] == [f"{DAY}|tales-00", f"{DAY}|tales-01", f"{DAY}|tales-00"]
    assert made.num_rows == len(PROMPTS)


def test_previewed_rows_are_those_of_the_full_run(site: Site) -> None:
    made = site.preview(campaign_of())

    full = site.run(campaign_of(), site.wanted(campaign_of()))

    assert {one.row_id: one.output for one in made.rows}.items() <= full.items()


def test_rows_of_a_model_in_this_process_are_those_of_the_full_run(site: Site, tiny_model: Path) -> None:
    """Its bytes depend on the micro-batch: the first ones run whole."""
    local = campaign_of(
        model="tiny", version="newest", registered=True, weights=str(tiny_model),
        engine=EngineSettings("transformers", dtype="float32"),
    )  # fmt: skip
    made = site.preview(local)
    assert not (site.home / "store").exists(), "a preview seals nothing"

    full = site.run(local, site.wanted(local))

    assert len(made.rows) == 3
    assert {one.row_id: one.output for one in made.rows}.items() <= full.items()


def test_rejected_rows_are_told_with_their_rules(site: Site) -> None:
    strict = campaign_of()
    strict = replace(strict, review=replace(strict.review, words_min=50))

    assert all("length" in one.rejected_by for one in site.preview(strict).rows)


def test_a_model_that_is_not_registered_is_refused_with_what_to_do(site: Site) -> None:
    campaign = campaign_of(model="tiny", version="newest", registered=True)

    with pytest.raises(InvalidInput, match="no base version of 'tiny' is registered"):
        site.wanted(campaign)


def test_the_set_is_that_of_the_stable_model_once_there_is_one(site: Site) -> None:
    campaign = campaign_of(model="tiny", version="newest", registered=True)
    models = [model_of("tiny", 1, kind="base"), model_of("tiny", 2), model_of("tiny", 3)]
    state = RolloutState(stable="s" * 64, stable_weights=models[1].weights_digest, head=1)

    found = wanted_set(campaign, models, state=state, home=site.home, version_of=lambda *_: "1")

    assert found.version_set.member("writer").model_version == "2"


def test_roles_of_one_models_name_are_previewed_on_the_weights_that_each_names(site: Site, tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(name)
    role = Role(model="m", weights="a", engine=EngineSettings("transformers"))
    campaign = Campaign(
        name="tales",
        prompts=PromptSource(files="p-{day}.txt"),
        roles={"draft": role, "polish": replace(role, weights="b")},
        chain=("draft", "polish"),
    )

    wanted = site.wanted(campaign).version_set

    digests = {label: digest_of_directory(tmp_path / name) for label, name in (("draft", "a"), ("polish", "b"))}
    assert {one.role: one.weights_digest for one in wanted.members} == digests
    assert {one.role: one.model_version for one in wanted.members} == {"draft": "1", "polish": "2"}


def test_previewed_pictures_and_recordings_are_those_of_the_full_run(site: Site, tmp_path: Path) -> None:
    campaign = campaign_of(
        model="",
        version="newest",
        registered=True,
        decoding=None,
        engine=None,
        roles={role: replace(part, registered=False, version="1") for role, part in make_roles().items()},
        chain=("writer", "painter", "speaker"),
    )
    made = site.preview(campaign, media=tmp_path / "media")
    outputs = site.run(campaign, site.wanted(campaign))
    assert [outputs[row.row_id] for row in made.rows] == [row.output for row in made.rows]
    assert len(list((tmp_path / "media").iterdir())) == 2 * len(made.rows)
    for row in made.rows:
        for part, asset in zip(row.parts, ("generated_images", "generated_speech"), strict=True):
            sealed = MediaSet.open(site.handoffs.open(asset, row.partition))
            assert part.file
            assert Path(part.file).read_bytes() == sealed.read(f"{row.row_id}/{part.role}")
