"""Rows are judged by all of their parts, published ones and mirrored ones alike."""

import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from headrace.command_line.checking.named_files import reference_findings
from headrace.engines.media_bytes import MediaFacts
from headrace.engines.media_rows import MediaRequest, MediaResult
from headrace.errors import InvalidCampaign, InvalidInput
from headrace.generation.campaign import Campaign, PromptSource, load_campaign
from headrace.generation.media_review.picture_settings import PictureReview
from headrace.generation.media_review.speech_settings import SpeechReview
from headrace.generation.preview import WantedSet, preview
from headrace.generation.review import RULES, Review
from headrace.generation.review_content import review_content
from headrace.generation.review_settings import ReviewSettings
from headrace.handoff.media.index import MediaItem
from headrace.handoff.media.publishing import publish_media
from headrace.rollout.evidence import review_metrics
from headrace.rollout.gates import GateSettings
from headrace.rollout.plan import Plan
from headrace.version_sets.sets import VersionSet
from simulation.campaign_site import DAY
from simulation.pictures import landscape
from tests.generation.builders import TEXTS, ScriptedEngine
from tests.generation.media_builders import (
    PICTURE,
    SPEECH,
    MediaSite,
    make_media_campaign,
    make_media_site,
    make_roles,
    start,
)

DRAW = np.random.default_rng(11)
PAINTER = {"painter": replace(make_roles()["painter"], template="{prompt}")}


def png(picture: Any) -> bytes:
    body = io.BytesIO()
    picture.save(body, "PNG")
    return body.getvalue()


SCENES = [png(landscape(DRAW, PICTURE.width, PICTURE.height)) for _ in TEXTS]


class Painting:
    """Paints by a rule of the asked text: bytes, or why it refuses."""

    name, build, deterministic = "echo", "", True

    def __init__(self, paint: Callable[[str], bytes | str]) -> None:
        self.paint = paint

    def generate(self, requests: list[MediaRequest]) -> list[MediaResult]:
        return [self._made(self.paint(one.text)) for one in requests]

    def _made(self, found: bytes | str) -> MediaResult:
        if isinstance(found, str):
            return MediaResult.none("refused", found)
        facts = MediaFacts(media_type="image/png", width=PICTURE.width, height=PICTURE.height)
        return MediaResult(content=found, facts=facts, finish_reason="stop")

    def close(self) -> None:
        pass


def true_picture(text: str) -> bytes:
    return SCENES[TEXTS.index(text)]


def painter_site(directory: Path, **changes: Any) -> MediaSite:
    return make_media_site(directory, campaign=make_media_campaign(PAINTER, **changes))


def with_references(site: MediaSite) -> None:
    items = [
        MediaItem(item_id=str(n), media_type="image/png", content=scene, caption=text)
        for n, (scene, text) in enumerate(zip(SCENES, TEXTS, strict=True))
    ]
    publish_media(site.handoffs, "clean_images", "shard-00", items, code_version="1", run_id="r")


AGREEING = ReviewSettings(pictures=PictureReview(references="clean_images", rank_max=2))


def reviewed(site: MediaSite, paint: Callable[[str], bytes | str]) -> Review:
    content = site.generate(open_media=lambda *_: Painting(paint)).content
    return review_content(content, site.handoffs, site.campaign)


def test_each_picture_is_rejected_by_the_rules_that_it_breaks(tmp_path: Path) -> None:
    from PIL import Image

    shown: list[bytes | str] = list(SCENES)
    shown[1] = png(Image.new("RGB", (PICTURE.width, PICTURE.height), "white"))
    shown[3], shown[4] = "against our policy", SCENES[0]
    found = reviewed(painter_site(tmp_path), lambda text: shown[TEXTS.index(text)])
    rows = found.table.to_pylist()
    assert [row["rejected_by"] for row in rows] == [
        [],
        ["painter.blank"],
        [],
        ["painter.refused"],
        ["painter.near_duplicate"],
        [],
        [],
    ]
    assert found.num_rejected_by == {
        "painter.failed": 0,
        "painter.refused": 1,
        "painter.unreadable": 0,
        "painter.blank": 1,
        "painter.noise": 0,
        "painter.near_duplicate": 1,
    }
    assert [row["media"] == [] for row in rows] == [n == 3 for n in range(7)]
    assert json.loads(rows[0]["media"][0]["figures"]).keys() == {"contrast", "variation"}


def test_texts_keep_their_rules_and_a_row_without_a_text_has_one_fault(tmp_path: Path) -> None:
    site = make_media_site(tmp_path)
    bad = TEXTS[2]
    writing = ScriptedEngine(fails=lambda prompt: ValueError("no") if prompt == bad else None)
    content = site.generate(open_engine=lambda _: writing).content
    found = review_content(content, site.handoffs, site.campaign)
    assert found.table["rejected_by"].to_pylist()[2] == ["failed"]
    assert found.num_rejected_by["failed"] == 1
    assert list(found.num_rejected_by)[: len(RULES)] == list(RULES)
    assert found.num_rejected_by["painter.failed"] == 0


class Silent:
    """Says nothing of one text, and leaves others to the engine."""

    name, build, deterministic = "echo", "", True

    def __init__(self, made: Any, silent: str) -> None:
        self.made, self.silent = made, silent

    def generate(self, requests: list[MediaRequest]) -> list[MediaResult]:
        made = self.made.generate(requests)
        return [
            replace(result, content=result.content[:44] + bytes(len(result.content) - 44))
            if one.text == self.silent
            else result
            for one, result in zip(requests, made, strict=True)
        ]

    def close(self) -> None:
        self.made.close()


def test_a_recording_is_rejected_by_its_own_rules_and_its_picture_stays(tmp_path: Path) -> None:
    roles = make_roles()
    site = make_media_site(tmp_path, campaign=make_media_campaign({"speaker": roles["speaker"], **PAINTER}))

    def opened(version_set: VersionSet, role: str) -> Any:
        return Painting(true_picture) if role == "painter" else Silent(site.open_media(version_set, role), TEXTS[3])

    content = site.generate(open_media=opened).content
    found = review_content(content, site.handoffs, site.campaign)
    rows = found.table.to_pylist()
    assert [row["rejected_by"] for row in rows] == [["speaker.silent"] if n == 3 else [] for n in range(7)]
    assert found.num_rejected_by["speaker.silent"] == 1
    assert found.num_rejected_by["speaker.clipped"] == found.num_rejected_by["painter.blank"] == 0
    assert [[one["role"] for one in row["media"]] for row in rows] == [["speaker", "painter"]] * 7
    assert json.loads(rows[0]["media"][0]["figures"])["duration_seconds"] > 0


def test_a_recording_is_judged_by_the_speed_at_which_it_was_spoken(tmp_path: Path) -> None:
    speaker = make_roles()["speaker"]
    fast, slow = (make_roles(speaker=replace(speaker, speech=replace(SPEECH, speed=speed))) for speed in (4, 0.25))
    site = make_media_site(tmp_path, campaign=make_media_campaign(fast))
    content = site.generate().content
    now, later = (review_content(content, site.handoffs, make_media_campaign(roles)) for roles in (fast, slow))
    assert now.table.equals(later.table)


def test_limits_for_recordings_need_a_role_that_speaks(tmp_path: Path) -> None:
    with pytest.raises(InvalidCampaign, match="review: speech judges what a role makes, and no role .* makes speech"):
        painter_site(tmp_path, review=ReviewSettings(speech=SpeechReview()))
    heard = Plan(gate=GateSettings(margins={"speaker.character_error_rate": 0.05}))
    with pytest.raises(InvalidInput, match=r"nothing measures speaker\.character_error_rate here"):
        make_media_campaign(rollout=heard)
    listening = ReviewSettings(speech=SpeechReview(character_error_rate_max=0.55))
    assert make_media_campaign(rollout=heard, review=listening).plan.gate.margins


def test_agreement_is_measured_against_the_captions_true_pictures(tmp_path: Path) -> None:
    site = painter_site(tmp_path, review=AGREEING)
    with_references(site)
    found = reviewed(site, lambda text: true_picture(TEXTS[0] if text == TEXTS[6] else text))
    rows = found.table.to_pylist()
    last = json.loads(rows[6]["media"][0]["figures"])
    # The seventh shows the first one's: a copy, and perhaps beyond the second rank.
    assert rows[6]["rejected_by"] == (["painter.wrong_picture"] if last["rank"] >= 2 else []) + [
        "painter.near_duplicate"
    ]
    agreed = [json.loads(row["media"][0]["figures"])["agreement"] for row in rows]
    assert agreed[:6] == [1.0] * 6
    assert found.figures()["painter.agreement"] == pytest.approx(sum(agreed) / 7)
    assert found.figures()["painter.num_without_reference"] == 0


def test_rows_without_a_true_picture_are_counted_apart(tmp_path: Path) -> None:
    site = painter_site(tmp_path, review=AGREEING)
    with_references(site)
    site.put_prompts([*TEXTS[:3], "Something else entirely."])
    found = reviewed(site, lambda text: true_picture(text) if text in TEXTS else SCENES[6])
    assert found.figures()["painter.num_without_reference"] == 1
    assert found.figures()["painter.agreement"] == 1.0
    assert found.num_rejected == 0


def test_the_caption_may_be_another_than_what_is_asked(tmp_path: Path) -> None:
    settings = replace(AGREEING.pictures or PictureReview(), caption="{prompt}")
    roles = {"painter": replace(PAINTER["painter"], template="A drawing: {prompt}")}
    campaign = make_media_campaign(roles, review=ReviewSettings(pictures=settings))
    site = make_media_site(tmp_path, campaign=campaign)
    with_references(site)
    found = reviewed(site, lambda text: true_picture(text.removeprefix("A drawing: ")))
    assert found.figures()["painter.agreement"] == 1.0


def test_a_mirror_is_judged_by_its_pictures_too(tmp_path: Path) -> None:
    site = painter_site(tmp_path, review=AGREEING)
    with_references(site)
    site.generate(open_media=lambda *_: Painting(true_picture))
    start(site, site.make_set(painter=2))

    def worse(text: str) -> bytes:
        return SCENES[0] if text in TEXTS[:3] else true_picture(text)

    opens = {"open_engine": site.open_rows, "open_media": lambda *_: Painting(worse)}
    mirror = site.mirror(**opens)
    rows = mirror.comparison.table().to_pylist()
    assert [row["published_kept"] for row in rows] == [True] * 7
    assert [row["mirrored_kept"] for row in rows] == [True, False, False, True, True, True, True]
    assert "painter.near_duplicate" in rows[1]["mirrored_rejected_by"]
    # A row is the same if all of its parts are.
    assert [row["same_output"] for row in rows] == [True, False, False, True, True, True, True]
    assert site.mirror(**opens).comparison.version == mirror.comparison.version
    # Other rules make another comparison, and nothing else anew.
    site.campaign = replace(site.campaign, review=ReviewSettings(pictures=PictureReview(near_duplicates=None)))
    lenient = site.mirror(**opens)
    assert all(row["mirrored_kept"] for row in lenient.comparison.table().to_pylist())
    assert lenient.content.version == mirror.content.version


def test_the_evidence_of_a_sealed_review_is_that_of_its_rows(tmp_path: Path) -> None:
    site = painter_site(tmp_path, review=AGREEING)
    with_references(site)
    shown: dict[str, bytes | str] = dict(zip(TEXTS, SCENES, strict=True))
    shown[TEXTS[1]] = "no"
    review = reviewed(site, lambda text: shown[text])
    site.handoffs.publish("reviewed_content", site.partition.key, review.table, code_version="1", run_id="r")
    [found] = review_metrics(site.handoffs, "glossary", num_days=28).values()
    assert found["painter.pass_rate"].mean == pytest.approx(6 / 7)
    assert (found["painter.agreement"].num, found["painter.agreement"].mean) == (6, 1.0)
    assert found["pass_rate"] == found["painter.pass_rate"]


def test_limits_for_pictures_need_a_role_that_paints() -> None:
    with pytest.raises(InvalidCampaign, match="review: pictures judges what a role makes, and no role .* makes image"):
        make_media_campaign({"writer": make_roles()["writer"]}, review=ReviewSettings(pictures=PictureReview()))
    settings = PictureReview(references="clean_images", caption="{colour}")
    with pytest.raises(InvalidCampaign, match=r"review: pictures: caption may use \{prompt\}, .*got \{colour\}"):
        make_media_campaign(review=ReviewSettings(pictures=settings))


@pytest.mark.parametrize("metric", ["painter.agreement", "speaker.agreement", "editor.pass_rate"])
def test_a_gate_judges_what_a_campaigns_roles_are_measured_by(metric: str) -> None:
    plan = Plan(gate=GateSettings(margins={metric: 0.2}))
    with pytest.raises(InvalidInput, match=f"nothing measures {metric} here.*writer.pass_rate"):
        make_media_campaign(rollout=plan)
    judged = Plan(gate=GateSettings(margins={"painter.agreement": 0.2, "writer.pass_rate": 0.1}))
    assert make_media_campaign(rollout=judged, review=AGREEING).makers


def test_true_pictures_may_lie_beside_the_campaigns_file(tmp_path: Path) -> None:
    file = tmp_path / "tales.yaml"
    file.write_text("""
name: tales
prompts: {files: ./tales.jsonl}
chain: [painter]
roles: {painter: {model: brush, version: "1", registered: false, engine: {name: echo}, picture: {width: 8, height: 8}}}
review: {pictures: {references: ./true/*, rank_max: null, near_duplicates: null}}
rollout: {gate: {margins: {painter.pass_rate: 0.25, painter.agreement: 0.2}}}
""")
    campaign: Campaign = load_campaign(file)
    assert campaign.review.pictures
    assert campaign.review.pictures.references == f"{tmp_path}/true/*"
    assert campaign.review.pictures.rules == ("unreadable", "blank", "noise")
    assert campaign.plan.gate.margins == {"painter.pass_rate": 0.25, "painter.agreement": 0.2}


def test_a_text_campaigns_comparisons_keep_their_digest() -> None:
    from dataclasses import asdict

    from headrace.generation.review_content import rules_digest
    from headrace.keys import digest_text
    from headrace.store.objects import canonical_json
    from simulation.campaign_site import make_campaign

    campaign = make_campaign()
    before = {name: value for name, value in asdict(campaign.review).items() if name not in ("pictures", "speech")}
    assert rules_digest(campaign, None) == digest_text("review", canonical_json(before).decode())
    assert rules_digest(make_media_campaign(), None) != rules_digest(campaign, None)


def test_an_empty_partition_is_reviewed(tmp_path: Path) -> None:
    site = painter_site(tmp_path)
    site.put_prompts([])
    found = reviewed(site, true_picture)
    assert found.table.num_rows == 0
    assert pa.types.is_list(found.table.schema.field("media").type)


def test_a_check_says_whether_there_are_true_pictures(tmp_path: Path) -> None:
    site = painter_site(tmp_path)
    sealed, files = PictureReview(references="clean_images"), PictureReview(references="true/*")
    [missing] = reference_findings(sealed, tmp_path, site.objects)
    assert (missing.level, missing.key) == ("warn", "review.pictures.references")
    with_references(site)
    assert [one.sentence for one in reference_findings(sealed, tmp_path, site.objects)] == [
        "1 partition of clean_images."
    ]
    assert [one.level for one in reference_findings(files, tmp_path, site.objects)] == ["fail"]
    (tmp_path / "true").mkdir()
    (tmp_path / "true/fox.png").write_bytes(SCENES[0])
    assert [one.sentence for one in reference_findings(files, tmp_path, None)] == ["true/*: 1 file."]
    assert reference_findings(PictureReview(), tmp_path, None) == []


@pytest.mark.parametrize("roles", [PAINTER, make_roles()], ids=["prompts as they are", "written"])
def test_a_preview_shows_the_texts_of_a_run(tmp_path: Path, roles: dict) -> None:
    campaign = make_media_campaign(roles, num_shards=1, prompts=PromptSource(files="prompts.jsonl"))
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    site = make_media_site(tmp_path / "store", campaign=campaign)
    site.draw_prompts(tmp_path)
    wanted = WantedSet(version_set=site.make_set(), unsealed={})
    opens = {"open_engine": site.open_rows, "open_media": site.open_media}
    shown = preview(campaign, wanted, day=DAY, home=tmp_path, num_rows=7, **opens).rows
    made = site.generate().content.table().to_pylist()
    assert [(one.row_id, one.seed, one.output) for one in shown] == [
        (row["row_id"], row["seed"], row["output"]) for row in made
    ]
