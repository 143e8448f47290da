"""Where a corpus's labels come from: the key `labels` of a corpus file."""

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge, Le

from headrace.engines.roles import EngineSettings
from headrace.errors import InvalidInput
from headrace.keys import SHARD_PLACEHOLDER
from headrace.text_templates import placeholders
from headrace.user_files.finding import check_pattern
from headrace.user_files.layout import FileLayout, check_delimiter
from headrace.user_files.ranges import check_ranges
from headrace.user_files.text_encodings import Encodings, checked_encodings


@dataclass(frozen=True, kw_only=True)
class LabelFile:
    """Labels from people: a CSV or JSON Lines file with a document id and a label in each row."""

    path: str
    """The file."""
    encoding: Encodings = ("utf-8",)
    """A text encoding, or a list that is tried in order."""
    delimiter: str | None = None
    """What separates the fields of a CSV; null: comma, semicolon, tab or `|`, as its header shows."""
    document_id: str = "document_id"
    """The column with the document's id."""
    label: str = "label"
    """The column with the label."""
    source: str = "file"
    """The name under which these labels are kept."""

    def __post_init__(self) -> None:
        check_pattern("path", self.path, placeholder=SHARD_PLACEHOLDER)
        object.__setattr__(self, "encoding", checked_encodings(self.encoding))
        check_delimiter(self.delimiter, "auto")

    @property
    def layout(self) -> FileLayout:
        return FileLayout(columns=(self.document_id, self.label), encodings=self.encoding, delimiter=self.delimiter)


@dataclass(frozen=True, kw_only=True)
class LabelJudge:
    """A model that answers one question about each document with one of `answers`."""

    question: str
    """The user turn, with `{text}`, `{term}` or `{category}`."""
    answers: tuple[str, ...]
    """The labels; the one with which the reply begins counts."""
    engine: str = "openai_http"
    """An installed engine."""
    model: str
    """The engine's name for the model."""
    base_url: str | None = None
    """For openai_http: the server's URL up to and including /v1."""
    system: str | None = None
    """The system turn; null: none of ours."""
    answer_tokens_max: Annotated[int, Ge(1), Le(1_000_000)] = 8
    """The longest answer, in tokens."""
    source: str = "judge"
    """The name under which these labels are kept."""

    def __post_init__(self) -> None:
        check_ranges(self)
        if not placeholders("question", self.question, texts=("term", "category", "text")):
            raise InvalidInput(
                f"question must hold {{text}}, {{term}} or {{category}}, got {self.question!r}: every document would "
                "be asked the same."
            )
        if len({answer.casefold() for answer in self.answers}) < 2:
            raise InvalidInput(f"answers must hold at least two different labels, got {list(self.answers)!r}.")
        _ = self.settings

    @property
    def settings(self) -> EngineSettings:
        """The judge's engine, in float32, so that no label depends on a near tie.

        Raises: InvalidInput: the engine is not installed, or needs a setting that is missing.
        """
        return EngineSettings.taking(self.engine, dtype="float32", base_url=self.base_url, model=self.model)


@dataclass(frozen=True, kw_only=True)
class Labels:
    """The sources of labels. With both, the file's label wins and the judge is measured against it."""

    file: LabelFile | None = None
    judge: LabelJudge | None = None
    drop: tuple[str, ...] = ()
    """The rule `label_unwanted` drops documents with one of these labels."""
    kappa_min: Annotated[float, Ge(-1), Le(1)] = 0.6
    """Below this Cohen's kappa, the check `labels_agree` fails. 0.6 is where "substantial" begins (Landis & Koch 1977).
    """

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.file is None and self.judge is None:
            raise InvalidInput("labels must name a file or a judge, or both; remove the key to do without labels.")
        if self.judge and not self.file:
            answers = {answer.casefold() for answer in self.judge.answers}
            if never := [label for label in self.drop if label.casefold() not in answers]:
                raise InvalidInput(
                    f"drop has {never[0]!r}, which the judge never answers, got answers {list(self.judge.answers)!r}."
                )
        if self.file and self.judge and self.file.source == self.judge.source:
            raise InvalidInput(f"the sources of file and judge must differ, got {self.file.source!r} twice.")

    @property
    def sources(self) -> tuple[str, ...]:
        """Whose labels count; a later one's overrule an earlier one's, since people overrule models."""
        return tuple(one.source for one in (self.judge, self.file) if one)
