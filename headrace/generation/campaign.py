"""The definition of a campaign: prompts, model and decoding, how days are divided, what the review keeps.

Each YAML file in the campaigns directory describes one campaign; everything is checked when it is loaded, before a GPU
is held. A campaign says what is *wanted*. A partition actually sees its version set: a changed file reaches the rows
only through a rollout.
"""

import glob
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Ge

from headrace.engines.openai.address import check_replicas
from headrace.engines.prices import Price
from headrace.engines.roles import EngineSettings, PromptTemplate, RegisteredModel, Role, WantedDecoding
from headrace.errors import InvalidCampaign, InvalidInput
from headrace.generation.budget import Budget
from headrace.generation.campaign_checks import check_roles, check_sections
from headrace.generation.clip_settings import ClipSettings
from headrace.generation.prompt_source import PromptSource
from headrace.generation.review_settings import ReviewSettings
from headrace.generation.step_runs import StepRun
from headrace.keys import (
    CAMPAIGN_SHARDS,
    CAMPAIGNS,
    ContentPartition,
    campaign_shard,
    check_num_shards,
    check_subject_name,
)
from headrace.rollout.gates import AGREEMENT, BULK_METRICS, CHARACTER_ERROR_RATE, PASS_RATE, role_metric
from headrace.rollout.plan import Plan
from headrace.user_files.directory import Described, from_directory
from headrace.user_files.ranges import check_ranges
from headrace.user_files.shapes import from_file
from headrace.version_sets.media_settings import MemberKind
from headrace.version_sets.sets import Decoding, VersionSet

# The one role of a text campaign's version set.
WRITER = "writer"

# Part of every version set: raise it when the same set and prompts would give other rows.
GENERATION_CODE_VERSION = "2"


@dataclass(frozen=True, kw_only=True)
class Campaign:
    """One bulk generation, as its YAML file describes it."""

    name: str
    """The name of its partitions, its rollout and its rows; a changed one is another campaign."""
    description: str = ""
    """For people."""
    num_shards: int = 1
    """Partitions a day. Of a campaign that takes events, windows are the partitions, and this is 1."""
    prompts: PromptSource
    model: str = ""
    """For a single writer: the registered model that writes; its versions are this campaign's candidates."""
    version: str = "newest"
    """For a single writer: as in a role."""
    weights: str | None = None
    """For a single writer: as in a role."""
    registered: bool = True
    """For a single writer: as in a role."""
    prompt_template: PromptTemplate | None = None
    decoding: WantedDecoding | None = None
    """null: every setting has its default."""
    engine: EngineSettings | None = None
    roles: dict[str, Role] = field(default_factory=dict)
    """For several roles: their parts, by name."""
    chain: tuple[str, ...] = ()
    """The order in which the roles answer. Each that writes gets the previous one's answer; each that paints or speaks
    gets, by its template, what the last of them wrote. If none writes, prompts are painted or spoken as they are."""
    micro_batch_rows: Annotated[int, Ge(1)] = 8
    """How many rows run and are committed together; a killed worker loses at most these."""
    row_attempts: Annotated[int, Ge(1)] = 3
    """How often a failing row is tried before it is recorded with its error."""
    work_class: Literal["flex", "batch"] = "batch"
    """At a model that an engine host holds for several: `flex` work fills what live work leaves over, and `batch` work
    what both do. A window of events goes as flex where one of them is more urgent than batch. No row depends on it."""
    replicas: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Base URL in a version set → the servers with the same model, if there are several."""
    budget: Budget | None = None
    """null: a day may spend what it takes."""
    prices: dict[str, Price] = field(default_factory=dict)
    """Model, or MODEL:VERSION → the price of its tokens; for the budget of money."""
    review: ReviewSettings = field(default_factory=ReviewSettings)
    rollout: Plan = field(default_factory=Plan)
    clips: ClipSettings | None = None
    """Films of rows that have a picture and a recording: `{}` asks for them as they usually are; null: none."""
    apart: dict[MemberKind, StepRun] | None = None
    """For a chain that paints or speaks: kind of step → what its runs ask for. `{}`: each step of a partition is a run
    of its own, so that steps of different partitions overlap; null: one run makes all of a partition."""

    def __post_init__(self) -> None:
        check_subject_name("name", self.name)
        check_roles(self)
        check_num_shards(self.num_shards)
        check_ranges(self)
        check_replicas(self.replicas)
        check_sections(self)
        self.rollout.check_measured(BULK_METRICS | self._role_metrics)

    @cached_property
    def plan(self) -> Plan:
        return self.rollout.named(self.name)

    @property
    def takes_events(self) -> bool:
        return self.prompts.inbox is not None

    @property
    def keeps_late(self) -> bool:
        """Whether no row is made of events that came after their window was sealed."""
        return self.prompts.inbox is not None and self.prompts.inbox.late == "keep"

    @property
    def shard_keys(self) -> list[str]:
        """What its file alone tells; windows become keys when they are sealed."""
        if self.takes_events:
            return []
        return [campaign_shard(self.name, shard) for shard in range(self.num_shards)]

    @property
    def dynamic_keys(self) -> dict[str, list[str]]:
        """What its file adds to Dagster's dynamic partitions, by their name."""
        return {CAMPAIGNS: [self.name], CAMPAIGN_SHARDS: self.shard_keys}

    def partition_keys(self, day: str) -> list[str]:
        """One day's content partitions, as far as its file alone tells them: none of a campaign that takes events, for
        which `headrace.generation.campaign_windows` asks the store."""
        return [f"{day}|{shard}" for shard in self.shard_keys]

    def population(self, partition: ContentPartition) -> list[str] | None:
        """The partitions over which a rollout's share is counted; None: windows, which nobody can count beforehand."""
        return self.partition_keys(partition.day) if partition.window is None else None

    def tags_apart(self, kind: MemberKind) -> dict[str, str]:
        """What the file asks for a step's runs, as tags over those of its asset."""
        asked = (self.apart or {}).get(kind)
        return asked.tags if asked else {}

    @cached_property
    def parts(self) -> dict[str, Role]:
        """Role → its part, from either form of the file."""
        if self.roles:
            return self.roles
        template, engine = self.prompt_template or PromptTemplate(), self.engine or EngineSettings()
        role = Role(
            model=self.model,
            version=self.version,
            weights=self.weights,
            registered=self.registered,
            prompt_template=template,
            decoding=self.decoding or Decoding(),
            engine=engine,
        )
        return {WRITER: role}

    @property
    def follows_model(self) -> bool:
        """Whether each trained version of the one writer's model becomes a candidate, after the base that it came from.

        Otherwise the file's wish as a whole is the candidate: several models, one by its weights, or a server's own.
        """
        return not self.roles and self.registered and self.weights is None and self.version == "newest"

    @property
    def order(self) -> tuple[str, ...]:
        """The roles in the order of their answers."""
        return self.chain or (WRITER,)

    @property
    def writers(self) -> tuple[str, ...]:
        """The roles that write, in the order of their answers; the last answer is the row's text."""
        return tuple(role for role in self.order if self.parts[role].kind == "text")

    @property
    def makers(self) -> tuple[str, ...]:
        """The roles that paint or speak, in their order."""
        return tuple(role for role in self.order if self.parts[role].kind != "text")

    @property
    def judged_writer(self) -> str:
        """The role whose text the review judges, in a campaign that also paints or speaks; else empty."""
        return self.writers[-1] if self.writers and self.makers else ""

    @property
    def _role_metrics(self) -> frozenset[str]:
        """What the review measures of each role."""
        judged = [*self.makers, *([self.judged_writer] if self.judged_writer else [])]
        has_references = self.review.pictures is not None and self.review.pictures.references is not None
        listens = self.review.speech is not None and self.review.speech.listens
        figures = {"image": [AGREEMENT] if has_references else [], "speech": [CHARACTER_ERROR_RATE] if listens else []}
        measured = {role_metric(role, name) for role in self.makers for name in figures[self.parts[role].kind]}
        return frozenset(measured | {role_metric(role, PASS_RATE) for role in judged})

    def with_engine(self, name: str | None) -> "Campaign":
        """The campaign on another engine, such as `echo` for a dry run; None changes nothing.

        Raises:
            InvalidCampaign: the engine is not installed, or needs settings that the file lacks.
        """
        if name is None or all(part.engine.name == name for part in self.parts.values()):
            return self
        try:
            if not self.roles:
                return replace(self, engine=self.parts[WRITER].engine.on(name))
            moved = {role: replace(part, engine=part.engine.on(name)) for role, part in self.roles.items()}
        except InvalidInput as error:
            raise InvalidCampaign(f"campaign {self.name!r} on engine {name!r}: {error}") from error
        return replace(self, roles=moved)

    def version_set(self, models: Mapping[str, RegisteredModel]) -> VersionSet:
        """The set in which this campaign would now run these model versions.

        Args:
            models: role → version, for every registered role.
        """
        # A single writer's engine is the set's, as before roles existed, so its id stays.
        members = tuple(
            part.member(role, models.get(role), engine=part.engine.spec if self.roles else None)
            for role, part in self.parts.items()
        )
        spec = self.parts[(self.writers or self.order)[-1]].engine.spec
        return VersionSet(members=members, engine=spec, code_version=GENERATION_CODE_VERSION, chain=self.chain)


def load_campaigns(directory: Path, *, engine: str | None = None, only: str | None = None) -> Described[Campaign]:
    """The campaigns of a directory; a broken file costs its own campaign alone.

    Args:
        engine: for all of them, as in `Campaign.with_engine`.
        only: the name of the one file to read.
    """

    def load(file: Path) -> Campaign:
        return load_campaign(file).with_engine(engine)

    return from_directory(directory, load, "campaign", InvalidCampaign, wanted_in="HEADRACE_CAMPAIGNS", only=only)


def load_campaign(file: Path) -> Campaign:
    """Raises: InvalidCampaign: the file is not YAML, or describes a campaign that cannot run."""
    campaign = from_file(Campaign, file, "Campaign file", refusal=InvalidCampaign)
    prompts = campaign.prompts
    if not campaign.takes_events:
        prompts = replace(prompts, files=_beside(prompts.files, file))
    review = campaign.review
    if review.pictures and review.pictures.references and not review.pictures.is_asset:
        references = _beside(review.pictures.references, file)
        review = replace(review, pictures=replace(review.pictures, references=references))
    return replace(campaign, prompts=prompts, review=review)


def _beside(pattern: str, file: Path) -> str:
    """A pattern that begins with `./` or `../` starts at its campaign's file."""
    if not pattern.startswith(("./", "../")):
        return pattern
    # The directory is a place and no pattern, whatever its name.
    return os.path.normpath(f"{glob.escape(str(file.absolute().parent))}/{pattern}")
