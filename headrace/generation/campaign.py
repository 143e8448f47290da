"""What a campaign is: whose prompts, which model and decoding, how its days are cut, what the review keeps.

One YAML file in the campaigns directory describes one campaign; everything is checked when it is loaded, before a GPU
is held. A campaign says what is *wanted*. What a partition actually saw is its version set: a changed file reaches
the rows only through a rollout.
"""

from dataclasses import dataclass, field, replace
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from headrace.chat.template import checked_date
from headrace.engines.openai.address import check_address
from headrace.errors import InvalidCampaign, InvalidInput
from headrace.generation.review_settings import ReviewSettings
from headrace.keys import campaign_shard, check_name, check_num_shards
from headrace.masking import without_credentials
from headrace.rollout.plan import Plan
from headrace.rollout.version_sets import Decoding, EngineSpec, Member, VersionSet
from headrace.text_templates import placeholders
from headrace.typed_mapping import from_mapping
from headrace.user_files.yaml_file import read_yaml

# The one role of a text campaign's version set.
WRITER = "writer"

EngineName = Literal["transformers", "openai_http", "echo"]

# Part of every version set: raise it when the same set and prompts would come out as other rows.
GENERATION_CODE_VERSION = "1"

# The libraries whose version can change an engine's output.
_ENGINE_PACKAGES: dict[str, tuple[str, ...]] = {
    "transformers": ("transformers", "torch"),
    "openai_http": (),
    "echo": (),
}


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
class PromptTemplate:
    """The turns that the model's chat template is given; `{text}` is the prompt."""

    user: str = "{text}"
    # null leaves the system turn to the model's own chat template, which may add one.
    system: str | None = None

    def __post_init__(self) -> None:
        if "text" not in placeholders("user", self.user, texts=("text",)):
            raise InvalidCampaign(f"user must hold {{text}}, where the prompt goes, got {self.user!r}.")


@dataclass(frozen=True, kw_only=True)
class EngineSettings:
    """What turns prompts into text; all of it is part of the version set."""

    name: EngineName = "transformers"
    dtype: Literal["float32", "bfloat16", "float16"] = "bfloat16"
    num_threads: int = 1
    # For openai_http: the server, up to and including /v1, and the name it serves the model under.
    base_url: str | None = None
    model: str | None = None
    # For transformers: the day that a chat template is told when it asks for today's.
    template_date: str | None = None
    # For openai_http: the model's special tokens. The server would take them for turns in whatever text they stand, so
    # a prompt or a message that spells one is refused.
    special_tokens: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.num_threads < 1:
            raise InvalidCampaign(f"num_threads must be at least 1, got {self.num_threads}.")
        try:
            checked_date("template_date", self.template_date)
        except InvalidInput as error:
            raise InvalidCampaign(str(error)) from error
        if self.template_date and self.name == "openai_http":
            raise InvalidCampaign(
                f"template_date is for the engine transformers, got {self.template_date!r} for 'openai_http': the "
                "server applies the template, by its own clock. Leave it out."
            )
        if self.special_tokens and self.name == "transformers":
            raise InvalidCampaign(
                f"special_tokens is for the engine openai_http, got {list(self.special_tokens)!r} for 'transformers', "
                "which knows the model's own. Leave it out."
            )
        if "" in self.special_tokens:
            raise InvalidCampaign("special_tokens must list texts such as <|im_start|>, got an empty one.")
        if self.name == "openai_http" and not (self.base_url and self.model):
            shown = self.base_url and without_credentials(self.base_url)
            raise InvalidCampaign(
                f"engine 'openai_http' needs base_url and model, got base_url={shown!r}, model={self.model!r}."
            )
        if self.base_url:
            check_address(self.base_url)

    @property
    def spec(self) -> EngineSpec:
        """The engine as a version set names it, with the library versions of this installation."""
        return EngineSpec(
            name=self.name,
            dtype=self.dtype,
            num_threads=self.num_threads,
            build=engine_build(self.name),
            base_url=self.base_url,
            model=self.model,
            template_date=self.template_date,
            special_tokens=self.special_tokens,
        )


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
        where = f"campaign {self.name!r} on engine {name!r}"
        engine = _checked(EngineSettings, {**_plain(self.engine), "name": name}, where)
        return replace(self, engine=engine)

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


def engine_build(name: str) -> str:
    """Library versions behind an engine, such as `transformers 5.23.0, torch 2.13.0`; found without importing them."""
    versions = []
    for package in _ENGINE_PACKAGES.get(name, ()):
        try:
            versions.append(f"{package} {metadata.version(package)}")
        except metadata.PackageNotFoundError:
            versions.append(f"{package} not installed")
    return ", ".join(versions)


def _checked(cls: type, body: object, where: str) -> Any:
    try:
        return from_mapping(cls, body, where)
    except InvalidInput as error:
        raise InvalidCampaign(str(error)) from error


def _plain(engine: EngineSettings) -> dict[str, Any]:
    """What any engine takes; what one kind alone takes stays with it."""
    return {name: getattr(engine, name) for name in ("name", "dtype", "num_threads", "base_url", "model")}
