"""What a campaign is: whose prompts, which model and decoding, how its days are cut, what the review keeps.

One YAML file in the campaigns directory describes one campaign; everything is checked when it is loaded, before a GPU
is held. A campaign says what is *wanted*. What a partition actually saw is its version set: a changed file reaches
the rows only through a rollout.
"""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from headrace.engines.openai.address import check_replicas
from headrace.engines.roles import EngineSettings, PromptTemplate
from headrace.errors import InvalidCampaign, InvalidInput
from headrace.generation.review_settings import ReviewSettings
from headrace.keys import campaign_shard, check_name, check_num_shards
from headrace.rollout.plan import Plan
from headrace.text_templates import placeholders
from headrace.typed_mapping import from_mapping
from headrace.user_files.yaml_file import read_yaml
from headrace.version_sets.sets import Decoding, Member, VersionSet

# The one role of a text campaign's version set.
WRITER = "writer"

# Part of every version set: raise it when the same set and prompts would come out as other rows.
GENERATION_CODE_VERSION = "1"


@dataclass(frozen=True, kw_only=True)
class PromptSource:
    """Where prompts come from.

    With `{day}` in `files`, a day's files are that day's list and are dealt to the shards; without it the files are one
    pool, of which every day and shard draws `per_shard` others.
    """

    # A glob relative to HEADRACE_HOME, or absolute.
    files: str
    format: Literal["auto", "jsonl", "csv", "parquet", "text"] = "auto"
    # The prompt's text: `template` with `{column}` placeholders, or a column as it is.
    template: str | None = None
    column: str = "text"
    # What the prompt is about; shown in reports, never sent to the model.
    term_column: str | None = None
    per_shard: int | None = None

    def __post_init__(self) -> None:
        if self.is_pool and (self.per_shard is None or self.per_shard < 1):
            raise InvalidCampaign(
                f"per_shard must be at least 1 where files is a pool, got {self.per_shard!r}; "
                f"put {{day}} into files={self.files!r} if each day has files of its own."
            )
        if not self.is_pool and self.per_shard is not None:
            raise InvalidCampaign(
                f"per_shard has no meaning where files holds {{day}}, whose whole list is dealt, got {self.per_shard}."
            )
        if self.template is not None:
            placeholders("template", self.template)

    @property
    def is_pool(self) -> bool:
        return "{day}" not in self.files


@dataclass(frozen=True, kw_only=True)
class Campaign:
    """One bulk generation, as its YAML file describes it."""

    name: str
    description: str = ""
    # The registered model that writes; its versions are this campaign's candidates.
    model: str
    num_shards: int
    prompts: PromptSource
    prompt_template: PromptTemplate = field(default_factory=PromptTemplate)
    decoding: Decoding
    engine: EngineSettings = field(default_factory=EngineSettings)
    # Rows that run and are committed together: what a killed worker can lose, at most.
    micro_batch_rows: int = 8
    # Times a failing row is tried before it is recorded with its error.
    row_attempts: int = 3
    # Base URL in a version set → the servers that serve the same model, if there are several.
    replicas: dict[str, tuple[str, ...]] = field(default_factory=dict)
    review: ReviewSettings = field(default_factory=ReviewSettings)
    # What `plan` parses.
    rollout: dict = field(default_factory=dict)  # pyright: ignore[reportMissingTypeArgument]

    def __post_init__(self) -> None:
        check_name("name", self.name)
        check_name("model", self.model)
        check_num_shards(self.num_shards)
        for name in ("micro_batch_rows", "row_attempts"):
            if getattr(self, name) < 1:
                raise InvalidCampaign(f"{name} must be at least 1, got {getattr(self, name)}.")
        check_replicas(self.replicas)

    @property
    def plan(self) -> Plan:
        """Raises: InvalidInput: the rollout section is no plan."""
        return Plan.parse(self.rollout, name=self.name)

    @property
    def shard_keys(self) -> list[str]:
        return [campaign_shard(self.name, shard) for shard in range(self.num_shards)]

    def partition_keys(self, day: str) -> list[str]:
        """The content partitions of one day: what a rollout's share is counted over."""
        return [f"{day}|{shard}" for shard in self.shard_keys]

    def with_engine(self, name: str | None) -> "Campaign":
        """The campaign on another engine, such as `echo` for a dry run; None changes nothing.

        Raises:
            InvalidCampaign: no such engine, or one that needs settings which the file does not have.
        """
        if name is None or name == self.engine.name:
            return self
        try:
            return replace(self, engine=self.engine.on(name))
        except InvalidInput as error:
            raise InvalidCampaign(f"campaign {self.name!r} on engine {name!r}: {error}") from error

    def version_set(
        self, *, model_version: str, weights_digest: str, weights_uri: str, model_name: str | None = None
    ) -> VersionSet:
        """The set in which one model version runs as this campaign wants it."""
        writer = Member(
            role=WRITER,
            model_name=model_name or self.model,
            model_version=model_version,
            weights_digest=weights_digest,
            weights_uri=weights_uri,
            system_prompt=self.prompt_template.system or "",
            user_template=self.prompt_template.user,
            decoding=self.decoding,
        )
        return VersionSet(members=(writer,), engine=self.engine.spec, code_version=GENERATION_CODE_VERSION)


def load_campaigns(directory: Path) -> tuple[Campaign, ...]:
    """Every `*.yaml` of a directory, in order of names.

    Raises:
        InvalidCampaign: no directory, no file, a file that cannot run as written, or two files of one name.
    """
    files = sorted([*directory.glob("*.yaml"), *directory.glob("*.yml")])
    if not files:
        raise InvalidCampaign(
            f"Campaigns directory {directory} holds no *.yaml file; HEADRACE_CAMPAIGNS names another."
        )
    origins: dict[str, Path] = {}
    campaigns: list[Campaign] = []
    for file in files:
        campaign = load_campaign(file)
        if (earlier := origins.get(campaign.name)) is not None:
            raise InvalidCampaign(f"Campaign {campaign.name!r} stands in two files: {earlier.name} and {file.name}.")
        origins[campaign.name] = file
        campaigns.append(campaign)
    return tuple(sorted(campaigns, key=lambda campaign: campaign.name))


def load_campaign(file: Path) -> Campaign:
    """Raises: InvalidCampaign: the file is not YAML, or describes a campaign that cannot run."""
    try:
        body = read_yaml(file, "Campaign file")
    except InvalidInput as error:
        raise InvalidCampaign(str(error)) from error
    campaign = _checked(Campaign, body, f"Campaign file {file}")
    try:
        _ = campaign.plan
    except InvalidInput as error:
        raise InvalidCampaign(f"Campaign file {file}: {error}") from error
    return campaign


def _checked(cls: type, body: object, where: str) -> Any:
    try:
        return from_mapping(cls, body, where)
    except InvalidInput as error:
        raise InvalidCampaign(str(error)) from error
