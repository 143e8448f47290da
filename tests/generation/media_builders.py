"""Builders for chains that paint and speak: a campaign of three roles on `echo`, and a site that generates on it."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from headrace.engines.deployment import Deployment
from headrace.engines.media_rows import MediaRows, open_media_rows
from headrace.engines.roles import EngineSettings, Role
from headrace.engines.rows import ChainRows, open_rows
from headrace.generation.bulk import Outcome
from headrace.generation.campaign import Campaign
from headrace.generation.claim_objects import Claim
from headrace.generation.day_summary import CampaignDay, summarize_day
from headrace.generation.review_content import review_content
from headrace.generation.review_settings import ReviewSettings
from headrace.handoff.versions import Handoff
from headrace.rollout.states import INITIALIZED, STARTED
from headrace.version_sets.media_settings import Picture, Speech
from headrace.version_sets.sets import VersionSet, VersionSets
from simulation.campaign_site import make_campaign
from simulation.models import model_of
from tests.generation.builders import DAY, TEXTS, Site, make_partition

ECHO = EngineSettings("echo")
PICTURE = Picture(width=32, height=24, num_inference_steps=8, guidance_scale=2)
SPEECH = Speech(voice="miller", sample_rate=16_000, duration_seconds_max=20)


def make_roles(**changes: Role) -> dict[str, Role]:
    roles = {
        "writer": Role(model="tiny", engine=ECHO, decoding=make_campaign().parts["writer"].decoding),
        "painter": Role(model="brush", engine=ECHO, picture=PICTURE, template="{text}, as {prompt}"),
        "speaker": Role(model="voice", engine=ECHO, speech=SPEECH),
    }
    return roles | changes


def campaign_file(*, num_shards: int, files: str, picture: str) -> str:
    """The YAML of a campaign of these roles. `files`: JSON Lines of `text` and `term`; `picture`: as YAML has it."""
    return f"""
name: tales
num_shards: {num_shards}
prompts: {{files: {files}, format: jsonl, column: text, term_column: term}}
chain: [writer, painter, speaker]
roles:
  writer: {{model: pen, version: "1", registered: false, engine: {{name: echo}}}}
  painter:
    model: brush
    version: "1"
    registered: false
    engine: {{name: echo}}
    picture: {picture}
    template: "{{term}}: {{writer}}"
  speaker: {{model: voice, version: "1", registered: false, engine: {{name: echo}}, speech: {{sample_rate: 16000}}}}
micro_batch_rows: 2
"""


def make_media_campaign(roles: dict[str, Role] | None = None, **changes: Any) -> Campaign:
    roles = roles or make_roles()
    settings = {"roles": roles, "chain": tuple(roles), **changes}
    return replace(make_campaign(), model="", prompt_template=None, decoding=None, engine=None, **settings)


def models_of(campaign: Campaign, versions: dict[str, int] | None = None) -> dict[str, Any]:
    """Role → a registered version of its model."""
    return {role: model_of(part.model, (versions or {}).get(role, 1)) for role, part in campaign.parts.items()}


class MediaSite(Site):
    """A site whose sets have a writer, a painter and a speaker."""

    def make_set(self, **versions: int) -> VersionSet:
        return self.campaign.version_set(models_of(self.campaign, versions))

    def roll_out_set(self, event: str, version_set: VersionSet, **fields: Any) -> str:
        VersionSets(self.objects).put(version_set)
        body = {
            "version_set": version_set.id,
            "weights_digest": version_set.weights_digest,
            "num_rows": 0,
            "reason": "",
        }
        self.journal.append(event, body | fields, expected=self.journal.head())
        return version_set.id

    def generate(self, claim: Claim | None = None, engine: Any = None, **changes: Any) -> Outcome:
        opens = {"open_engine": self.open_rows, "open_media": self.open_media}
        return super().generate(claim, **(opens | changes))

    def open_rows(self, version_set: VersionSet) -> ChainRows:
        return open_rows(version_set, self.objects, Deployment())

    def open_media(self, version_set: VersionSet, role: str) -> MediaRows:
        return open_media_rows(version_set, role, self.objects, Deployment())


def make_media_site(directory: Path, **changes: Any) -> MediaSite:
    arguments: dict[str, Any] = {"campaign": make_media_campaign(), **changes}
    site = MediaSite(directory, **arguments)
    site.roll_out_set(INITIALIZED, site.make_set())
    site.put_prompts()
    return site


def start(site: MediaSite, version_set: VersionSet) -> str:
    return site.roll_out_set(STARTED, version_set, step=0, weight=1.0, cap=None)


def make_reviewed_site(directory: Path, *, shards: Sequence[int] = (0,), **changes: Any) -> MediaSite:
    """Partitions of rows with pictures and recordings, reviewed: the shorter texts are rejected. Returns the last."""
    campaign = replace(make_media_campaign(), **({"review": ReviewSettings(words_min=10)} | changes))
    for shard in shards:
        site = MediaSite(directory, campaign=campaign, partition=make_partition(shard))
        if shard == shards[0]:
            site.roll_out_set(INITIALIZED, site.make_set())
        site.put_prompts([f"{text} {shard}" for text in TEXTS])
        review_site(site, site.generate().content)
    return site


def review_site(site: MediaSite, content: Handoff) -> Handoff:
    return site.handoffs.publish(
        "reviewed_content",
        site.partition.key,
        review_content(content, site.handoffs, site.campaign).table,
        code_version="1",
        run_id="r",
        input_versions={f"{content.asset}[{content.partition}]": f"v{content.version} {content.content_digest}"},
    )


def summary_of(site: MediaSite) -> CampaignDay:
    """The site's day, as far as it is sealed."""
    keys = site.campaign.partition_keys(DAY)
    content, reviewed = (
        {key: found for key in keys if (found := site.handoffs.newest(asset, key))}
        for asset in ("generated_content", "reviewed_content")
    )
    return summarize_day(
        site.campaign.name,
        DAY,
        partition_keys=keys,
        content=content,
        reviewed=reviewed,
        handoffs=site.handoffs,
        set_label=VersionSets(site.objects).label,
    )
