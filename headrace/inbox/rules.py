"""The rules by which a campaign's events become windows: the section `prompts.inbox` of its file.

Of a campaign's file a gateway reads this section and the name alone: what the campaign makes of its events is checked
by those who make it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, ClassVar, Literal
from urllib.parse import urlsplit

from annotated_types import Ge, Gt, Le

from headrace.errors import InvalidCampaign, InvalidInput
from headrace.fairness import WorkClass
from headrace.inbox.stream_rules import NatsStream
from headrace.keys import check_subject_name
from headrace.masking import without_credentials
from headrace.user_files.directory import Described, from_directory
from headrace.user_files.ranges import check_ranges
from headrace.user_files.shapes import from_mapping
from headrace.user_files.yaml_file import read_yaml

NUM_EVENTS_MAX = 1_000
# Of a window, beside rows_max: whoever seals or processes one has all of it in memory, some times over.
WINDOW_BYTES_MAX = 256 * 2**20
# Of an id, a source, a key: they are kept in indexes.
NAME_CHARACTERS_MAX = 512
# Events of live traffic are of no use after some minutes; OpenAI's batches are promised within a day.
_BACKLOG_SECONDS: dict[WorkClass, float] = {"live": 300.0, "flex": 3_600.0, "batch": 86_400.0}


@dataclass(frozen=True, kw_only=True)
class Webhook:
    """Sends each event's result to a server, signed as Standard Webhooks does, at least once."""

    url: str
    """http or https; each result is a POST. Redirects are not followed."""
    secret_variable: str | None = None
    """The environment variable of the gateway that holds the secret: whsec_ and base64. Several, with blanks between
    them, all sign."""
    secret_file: str | None = None
    """Instead, the file that holds it, on the gateway's machine."""
    begins: Literal["first", "now"] = "first"
    """Where a campaign begins whose results were never sent: with the first result, or with the next one."""
    concurrency: Annotated[int, Ge(1), Le(256)] = 8
    """How many results are under way at once."""
    timeout_seconds: Annotated[float, Gt(0), Le(300)] = 15.0
    """How long a receiver may take for one."""
    give_up_seconds: Annotated[float, Gt(0)] = 259_200.0
    """A result is tried again so long after its first attempt; then it is kept as undelivered."""

    def __post_init__(self) -> None:
        check_ranges(self)
        try:
            parts = urlsplit(self.url)
        except ValueError as error:
            raise InvalidInput(f"url cannot be read: {error}.") from error
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise InvalidInput(f"url must be http:// or https:// and a host, got {without_credentials(self.url)!r}.")
        if parts.username is not None or parts.fragment:
            raise InvalidInput(
                f"url must have no user, password or fragment, got {without_credentials(self.url)!r}: results are "
                "signed, and many read this file."
            )
        if (self.secret_variable is None) == (self.secret_file is None):
            raise InvalidInput(
                "a webhook needs secret_variable, the name of an environment variable, or secret_file, one of both."
            )


@dataclass(frozen=True, kw_only=True)
class ResultRules:
    """Who gets the results of a campaign's events, beside those whose events they are."""

    readers: tuple[str, ...] = ()
    """API keys, by name, that read the results of all its events; others read those whose tenant has their name."""
    webhook: Webhook | None = None
    """null: results are asked for, and not sent."""


# Says what is said of every tenant that is not named.
EVERY_OTHER = "*"


@dataclass(frozen=True, kw_only=True)
class Tenant:
    """What one tenant of a campaign may ask for, and its share of the work."""

    weight: Annotated[float, Gt(0), Le(1_000_000)] = 1.0
    """Its share beside others': with 2 it has twice as many events worked off as one with 1, while both have some."""
    events_per_second: Annotated[float, Gt(0)] | None = None
    """More are refused, on an average over 10 s, with the time to wait; null: any number."""
    waiting_max: Annotated[int, Ge(1)] | None = None
    """While so many of its events wait to be worked off, further ones are refused; null: any number."""

    def __post_init__(self) -> None:
        check_ranges(self)


@dataclass(frozen=True, kw_only=True)
class InboxRules:
    """How events of a campaign are put into windows, and when a window is closed."""

    is_by_clock: ClassVar[bool] = False

    window_seconds: Annotated[int, Ge(1), Le(7 * 86_400)] = 3_600
    """Length of a window in event time; windows begin at multiples of it since 1970 (UTC)."""
    lateness_seconds: Annotated[float, Ge(0)] = 60.0
    """How much older than a source's newest event another one of it may be and still be on time."""
    rows_max: Annotated[int, Ge(1), Le(1_000_000)] = 10_000
    """A window with so many events, or 256 MiB of them, is closed; further ones of its time go to another window."""
    close_seconds: Annotated[float, Gt(0)] | None = None
    """A window is closed so long after its first event came in, whatever the watermark; null: after window_seconds +
    lateness_seconds + idle_seconds. Late events are sealed so long after the first of them."""
    idle_seconds: Annotated[float, Gt(0)] = 300.0
    """A source that sent nothing for so long does not hold the watermark back."""
    skew_seconds: Annotated[float, Ge(0)] = 10.0
    """An event whose time is further ahead of its arrival than this counts as of its arrival: its source's clock is
    wrong."""
    late: Literal["process", "keep"] = "process"
    """Late events are sealed in either case: `process` runs them too."""
    backlog_seconds: dict[WorkClass, Annotated[float, Gt(0)]] = field(default_factory=lambda: dict(_BACKLOG_SECONDS))
    """Class → an event is refused while working off those before it would take longer. A class that is left out takes
    any number."""

    tenants: dict[str, Tenant] = field(default_factory=dict)
    """Tenant, or `*` for every other one → its quotas, and its weight."""
    results: ResultRules = field(default_factory=ResultRules)
    """Who gets the results of its events."""
    nats: NatsStream | None = None
    """A stream of NATS JetStream whose messages are its events, too; null: they come over HTTP alone."""

    def __post_init__(self) -> None:
        check_ranges(self)

    @property
    def closes_after_seconds(self) -> float:
        if self.close_seconds is not None:
            return self.close_seconds
        return self.window_seconds + self.lateness_seconds + self.idle_seconds


@dataclass(frozen=True, kw_only=True)
class ClockRules(InboxRules):
    """Of events that their own gateway makes and stamps: its clock is the one source, also while there is no event.

    So a window is closed once the clock is `lateness_seconds` past its end.
    """

    is_by_clock: ClassVar[bool] = True


@dataclass(frozen=True, kw_only=True)
class InboxCampaign:
    """A campaign as its gateway sees it. `rules` None: it has files of prompts, and takes no events."""

    name: str
    rules: InboxRules | None

    def __post_init__(self) -> None:
        check_subject_name("name", self.name)


def campaigns_of_files(directory: Path) -> Described[InboxCampaign]:
    """The campaigns of a directory, by name; a broken file costs its own campaign alone."""
    return from_directory(directory, _read, "campaign", InvalidCampaign, wanted_in="--inbox")


def _read(file: Path) -> InboxCampaign:
    """Raises: InvalidCampaign: the file is not YAML, or its section is wrong."""
    try:
        content = read_yaml(file, "Campaign file").content
        if not isinstance(content, Mapping) or not isinstance(name := content.get("name"), str):
            raise InvalidInput(f"Campaign file {file} must be a mapping with a name, got {content!r:.80}.")
        prompts = content.get("prompts")
        if not isinstance(prompts, Mapping) or "inbox" not in prompts:
            return InboxCampaign(name=name, rules=None)
        rules = from_mapping(InboxRules, prompts["inbox"] or {}, f"Campaign file {file}: prompts.inbox")
        return InboxCampaign(name=name, rules=rules)
    except InvalidInput as error:
        raise InvalidCampaign(str(error)) from error
