"""Where a campaign's prompts come from, as its file says under `prompts`: files, or the events of an inbox."""

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge, Le

from headrace.errors import InvalidCampaign
from headrace.inbox.rules import InboxRules
from headrace.text_templates import placeholders
from headrace.user_files.finding import check_pattern
from headrace.user_files.layout import FileFormat, check_delimiter
from headrace.user_files.ranges import check_ranges
from headrace.user_files.text_encodings import Encodings, checked_encodings


@dataclass(frozen=True, kw_only=True)
class PromptSource:
    """The source of prompts: files, or events that an inbox takes.

    With `inbox` every event is a prompt, and columns are the keys of its `data` object. If `files` contains `{day}`, a
    day's files are that day's list and are dealt to the shards. Otherwise the files are one pool: every day deals all
    of it to the shards, or every day and shard draws `per_shard` different prompts of it.
    """

    files: str = ""
    """A glob relative to HEADRACE_HOME, or absolute; with `./` or `../` at its beginning, relative to this file."""
    inbox: InboxRules | None = None
    """Instead of `files`: `{}` takes events, in windows as they usually are."""
    format: FileFormat = "auto"
    """`auto`: by the name of each file."""
    encoding: Encodings = ("utf-8",)
    """A text encoding, or a list that is tried in order for each file."""
    delimiter: str | None = None
    """What separates the fields of a CSV; null: comma, semicolon, tab or `|`, as its header shows."""
    template: str | None = None
    """The prompt's text, with `{column}` placeholders; null: a column as it is."""
    column: str = "text"
    """The column that holds the prompt's text, if there is no template."""
    term_column: str | None = None
    """What the prompt is about, for reports; never sent to the model."""
    per_shard: Annotated[int, Ge(1)] | None = None
    """How many prompts a shard draws of a pool each day; null: every day has the whole pool."""
    variations: Annotated[int, Ge(1), Le(1000)] = 1
    """How many rows each prompt gives, each with its own id and seed."""
    carry: tuple[str, ...] = ()
    """Columns that come along to the rows as they are. They change no id, and never reach the model."""

    def __post_init__(self) -> None:
        check_ranges(self)
        self._check_origin()
        object.__setattr__(self, "encoding", checked_encodings(self.encoding))
        check_delimiter(self.delimiter, self.format)
        if self.carry:
            self._check_carried()
        if self.inbox is None and not self.is_pool and self.per_shard is not None:
            raise InvalidCampaign(
                f"per_shard has no meaning where files holds {{day}}, whose whole list is dealt, got {self.per_shard}."
            )
        if self.template is not None and not placeholders("template", self.template):
            raise InvalidCampaign(
                f"template must name a column in braces, such as {{text}}, got {self.template!r}: every prompt would "
                "be the same."
            )
        if self.template is not None and self.column != "text":
            raise InvalidCampaign(
                f"column has no meaning beside a template, which names its columns itself, got {self.column!r}: leave "
                "one of them out."
            )

    def _check_origin(self) -> None:
        if self.inbox is None:
            if not self.files:
                raise InvalidCampaign(
                    "lacks the key 'files', a glob of prompt files, or 'inbox', which takes events: {} is as usual."
                )
            check_pattern("files", self.files, placeholder="{day}")
            return
        if self.files:
            raise InvalidCampaign(
                f"has files and inbox, and prompts come from one of them, got files {self.files!r}: take one out."
            )
        of_files = {"format": "auto", "encoding": ("utf-8",), "delimiter": None, "per_shard": None}
        if given := [key for key, usual in of_files.items() if getattr(self, key) != usual]:
            raise InvalidCampaign(
                f"{given[0]} is said of files, and an inbox takes events, got {getattr(self, given[0])!r}: take it out."
            )

    def _check_carried(self) -> None:
        # Here, because services and commands that never see a row load no Arrow.
        from headrace.handoff.schemas import EVENT_ORIGIN, ROW_COLUMNS

        if self.format == "text":
            raise InvalidCampaign(f"carry names columns, and plain text has none, got {list(self.carry)!r}.")
        if len(set(self.carry)) < len(self.carry):
            raise InvalidCampaign(f"carry must name each column once, got {list(self.carry)!r}.")
        if taken := [name for name in self.carry if name in ROW_COLUMNS]:
            renamed = "Rename it in the prompt file." if self.inbox is None else "Rename the key of the events' data."
            hint = "Name it in term_column instead." if taken[0] == "term" else renamed
            raise InvalidCampaign(f"carry must not name {taken[0]!r}: every row has a column of that name. {hint}")
        if self.inbox and (taken := [name for name in self.carry if name in EVENT_ORIGIN.names]):
            raise InvalidCampaign(
                f"carry must not name {taken[0]!r}: every row of an event has a column of that name. Rename the key of "
                "the events' data."
            )

    @property
    def is_pool(self) -> bool:
        return "{day}" not in self.files

    @property
    def columns(self) -> frozenset[str]:
        """What is read of each record."""
        filled = placeholders("template", self.template) if self.template is not None else {self.column}
        return frozenset(filled) | {*self.carry, *([self.term_column] if self.term_column else [])}
