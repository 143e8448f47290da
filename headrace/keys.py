"""The forms of partition keys, and the identities of rows.

Every name of a unit of work is made here, so that two rooms never spell one partition in two ways. A partition key is
Dagster's string; identities are sha256 over length-prefixed parts, so `("ab", "c")` and `("a", "bc")` differ.
"""

import hashlib
import re
from dataclasses import dataclass
from urllib.parse import quote, unquote

from headrace.errors import InvalidInput

# What a model's `heldout_loss` is, where nothing else is said: nats a completion token.
HELDOUT_LOSS = "heldout_loss"
# The same of preferences: nats a held-out pair.
PREFERENCE_LOSS = "preference_loss"

# File systems' limit for a name; of a longer one this much stays readable.
_SEGMENT_BYTES_MAX = 255
_BEGINNING_BYTES_MAX = 180
# For a name that becomes part of others: `NAME-03`, `NAME.html`.
_NAME_CHARACTERS_MAX = 150
# Dagster can list so many partitions in one set; every process that loads definitions creates them all.
_NUM_SHARDS_MAX = 100_000
_NAME = re.compile(r"[a-z0-9][a-z0-9._]*(-[a-z0-9._]+)*")
_DAY = re.compile(r"\d{4}-\d{2}-\d{2}", re.ASCII)
_SHARD_KEY = re.compile(r"(.+)-(\d{2,})", re.ASCII)
# Of a service's calls; no shard's or window's key ends so.
_CALL_HOUR = re.compile(r"(.+)-h([01]\d|2[0-3])(-late([2-9]|[1-9]\d+)?)?", re.ASCII)
# Between a service's name and that of the log that has its calls; neither may hold it.
_FEED_SIGN = "@"
_WINDOW_KEY = re.compile(r"(.+)-w(\d{6}|[1-9]\d{6,})(-late([2-9]|[1-9]\d+)?)?", re.ASCII)
# Where a corpus file's globs hold the key of a shard.
SHARD_PLACEHOLDER = "{shard}"
# Dagster's dynamic partitions, whose keys come from users' files.
CAMPAIGNS, CAMPAIGN_SHARDS, MODEL_RECIPES = "campaign", "campaign_shard", "model_recipe"
CALL_HOURS = "call_hour"


def digest_text(*parts: str) -> str:
    """sha256 (64 hex characters) over the parts, each prefixed by its length in bytes."""
    digest = hashlib.sha256()
    for part in parts:
        body = part.encode()
        digest.update(f"{len(body)}:".encode())
        digest.update(body)
    return digest.hexdigest()


def partition_path(partition_key: str) -> str:
    """A partition key as one path segment of at most 255 bytes, for every key that Dagster accepts.

    `partition_from_path` inverts it, except for keys that are too long for a file name once quoted (28 Chinese
    characters are not, 29 are). Their segment keeps the beginning and a digest of the whole. Both spellings have the
    same path, so what a listing shows can be opened.
    """
    quoted = _quoted(partition_key)
    if len(quoted) <= _SEGMENT_BYTES_MAX:
        return quoted
    beginning = ""
    for character in partition_key:
        if len(beginning) + len(following := _quoted(character)) > _BEGINNING_BYTES_MAX:
            break
        beginning += following
    return f"{beginning}~{digest_text('partition', partition_key)[:32]}"


def partition_from_path(segment: str) -> str:
    """The key; if it was too long for a path, the shortened form of `partition_path`."""
    return unquote(segment)


def _quoted(text: str) -> str:
    quoted = quote(text, safe="=,@+ ")
    # Quoting leaves `.` and `..` unchanged, and no file system accepts them.
    return quoted.replace(".", "%2E") if set(quoted) == {"."} else quoted


def prompt_id(campaign: str, day: str, text: str, occurrence: int) -> str:
    """Identity of one prompt: the same text twice in a campaign's day makes two prompts (`occurrence` 0, 1, …)."""
    return digest_text("prompt", campaign, day, text, str(occurrence))


def row_id(prompt: str, version_set_id: str, variation: int) -> str:
    """Identity of one generated row."""
    return digest_text("row", prompt, version_set_id, str(variation))


def row_seed(row: str) -> int:
    """A row's sampling seed, in [0, 2^63): derived from its id, so a re-run draws the same numbers."""
    return int(digest_text("seed", row)[:16], 16) >> 1


def event_prompt_id(campaign: str, source: str, event: str, text: str) -> str:
    """Identity of the prompt of one event, which its source names once for good: equal texts are two prompts."""
    return digest_text("event prompt", campaign, source, event, text)


@dataclass(frozen=True, kw_only=True, order=True)
class Window:
    """A sealed window of a campaign's inbox. `late_part`: 0 is the window itself, 1, 2 … are its late events."""

    number: int
    late_part: int = 0


@dataclass(frozen=True, kw_only=True)
class ContentPartition:
    """One unit of bulk generation: a day of one campaign's shard, or a window of its inbox, on the day of its end.

    Keys: `2026-11-22|glossary-03`; `2026-11-22|orders-w000123`, late events `2026-11-22|orders-w000123-late`, those
    that came later still `…-late2` and so on. Whoever divides a day by number asks for `shard`, which windows lack.
    """

    day: str
    campaign: str
    shard: int | None = None
    window: Window | None = None

    def __post_init__(self) -> None:
        assert (self.shard is None) != (self.window is None), "a numbered shard, or a window"

    @property
    def campaign_shard(self) -> str:
        """Its key in the dimension of shards."""
        if self.window is not None:
            return window_key(self.campaign, self.window)
        assert self.shard is not None, "the other of the two"
        return campaign_shard(self.campaign, self.shard)

    @property
    def key(self) -> str:
        return f"{self.day}|{self.campaign_shard}"

    @classmethod
    def parse(cls, key: str) -> "ContentPartition":
        """Raises: InvalidInput: the key is not `DAY|CAMPAIGN-SHARD`."""
        if found := cls.find(key):
            return found
        raise InvalidInput(
            f"Partition key {key!r} is not DAY|CAMPAIGN-SHARD, such as 2026-11-22|glossary-03, or DAY|CAMPAIGN-wNUMBER,"
            " such as 2026-11-22|orders-w000123."
        )

    @classmethod
    def find(cls, key: str) -> "ContentPartition | None":
        """None: the key is not a content partition's, such as a file system's leftover."""
        day, bar, shard = key.partition("|")
        if not bar or not is_day(day):
            return None
        if match := _SHARD_KEY.fullmatch(shard):
            return cls(day=day, campaign=match[1], shard=int(match[2]))
        found = window_of_key(shard)
        return cls(day=day, campaign=found[0], window=found[1]) if found else None


def campaign_shard(campaign: str, shard: int) -> str:
    return f"{campaign}-{shard:02d}"


def window_key(campaign: str, window: Window) -> str:
    """`orders-w000123`, `orders-w000123-late`, `orders-w000123-late2`. No shard's key ends so."""
    return f"{campaign}-w{window.number:06d}{_late(window.late_part)}"


def _late_part(match: re.Match[str]) -> int:
    return int(match[4] or 1) if match[3] else 0


def _late(part: int) -> str:
    return f"-late{part if part > 1 else ''}" if part else ""


def window_of_key(key: str) -> tuple[str, Window] | None:
    """The campaign and the window of a `window_key`; None: it is none, such as a numbered shard's."""
    match = _WINDOW_KEY.fullmatch(key)
    if match is None:
        return None
    return match[1], Window(number=int(match[2]), late_part=_late_part(match))


@dataclass(frozen=True, kw_only=True, order=True)
class CallHour:
    """The calls of a service that ended in one hour of a day. `late_part`: 0 is the hour itself, 1, 2 … came later.

    Keys: `2026-11-22|voices-h14`, `2026-11-22|voices-h14-late`, `…-late2`. The hour is a project's, so the one that a
    clock has twice when it is set back is one hour here.
    """

    day: str
    service: str
    hour: int
    late_part: int = 0

    @property
    def name(self) -> str:
        """Its key in the dimension of hours."""
        return f"{self.service}-h{self.hour:02d}{_late(self.late_part)}"

    @classmethod
    def find(cls, key: str) -> "CallHour | None":
        """None: the key is none of an hour."""
        day, bar, name = key.partition("|")
        if bar and is_day(day) and (match := _CALL_HOUR.fullmatch(name)):
            return cls(day=day, service=match[1], hour=int(match[2]), late_part=_late_part(match))
        return None

    @classmethod
    def parse(cls, key: str) -> "CallHour":
        """Raises: InvalidInput: the key is not `DAY|SERVICE-hHOUR`."""
        if found := cls.find(key):
            return found
        raise InvalidInput(f"Partition key {key!r} is not DAY|SERVICE-hHOUR, such as 2026-11-22|voices-h14.")

    @property
    def key(self) -> str:
        return f"{self.day}|{self.name}"


def call_feed(service: str, log: str) -> str:
    """The inbox in which one gateway's log has the calls of a service: `voices@3f2a…`, by the log's nonce."""
    return f"{service}{_FEED_SIGN}{log[:16]}"


def feed_event(call: str, epoch: int) -> str:
    """The name of a call's event in such an inbox: `CALL/EPOCH`."""
    return f"{call}/{epoch}"


def call_of_event(event: str) -> str:
    """Whose event that is."""
    return event.partition("/")[0]


def feed_service(inbox: str) -> str | None:
    """Whose calls an inbox has; None: it is a campaign's."""
    service, sign, _ = inbox.partition(_FEED_SIGN)
    return service if sign else None


def check_num_shards(number: int) -> int:
    """Raises: InvalidInput: the number is below 1, or too large to list."""
    if not 1 <= number <= _NUM_SHARDS_MAX:
        raise InvalidInput(f"num_shards must be from 1 to {_NUM_SHARDS_MAX:,}, got {number:,}.")
    return number


def corpus_shard(index: int) -> str:
    return f"shard-{index:02d}"


def model_recipe(model: str, recipe: str) -> str:
    """Partition key of one model trained by one recipe: `smollm2-135m.define`."""
    return f"{model}.{recipe}"


def check_name(what: str, name: str) -> str:
    """A name that is safe in partition keys, store keys and file names.

    Raises:
        InvalidInput: `name` is too long, or has other characters than lower-case letters, digits, `.`, `_` and single
            `-`.
    """
    if len(name) > _NAME_CHARACTERS_MAX:
        raise InvalidInput(
            f"{what} must have at most {_NAME_CHARACTERS_MAX} characters, got {len(name):,}: {name[:40]!r}…"
        )
    if not _NAME.fullmatch(name):
        raise InvalidInput(f"{what} must be lower-case letters, digits, '.', '_' and single '-', got {name!r}.")
    return name


def check_subject_name(what: str, name: str) -> str:
    """A campaign's or service's name, which commands must tell from a day's.

    Raises:
        InvalidInput: as `check_name`; or it has a day's form.
    """
    if is_day(name):
        raise InvalidInput(
            f"{what} must not have a day's form, since commands would take it for the day, got {name!r}. Take another, "
            f"such as campaign-{name}."
        )
    return check_name(what, name)


def is_day(text: str) -> bool:
    """Whether it has the form YYYY-MM-DD."""
    return _DAY.fullmatch(text) is not None
