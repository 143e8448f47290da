"""The definition of a corpus: its files, columns and rules, and the form of a training example.

One YAML file describes one corpus (`resources/corpus.yaml` is the demo's). Everything is checked when the file is
loaded, before a document is read. Paths are absolute, or relative to the state directory (HEADRACE_HOME).
"""

from contextlib import suppress
from dataclasses import MISSING, asdict, dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le

from headrace.chat.template import checked_date
from headrace.errors import InvalidInput
from headrace.keys import SHARD_PLACEHOLDER, check_name, check_num_shards, corpus_shard, digest_text
from headrace.prep.dedup_settings import Deduplication, NearDuplicates
from headrace.prep.example_forms import (
    INPUT_COLUMNS,
    NEEDED_COLUMNS,
    OF_MESSAGES,
    ExampleForm,
    ExampleKind,
    ExamplePrompt,
    check_columns,
    form_of,
)
from headrace.prep.label_settings import Labels
from headrace.prep.language import LanguageRules
from headrace.prep.normalization import Normalization
from headrace.prep.personal_settings import KINDS, PersonalData, found_column
from headrace.prep.rule_sets import (
    LATER_LIMITS,
    OTHER_RULES,
    SHARE_KEYS,
    QualityRules,
    check_share_names,
    with_limits_of_set,
)
from headrace.prep.semantic_settings import SemanticDuplicates
from headrace.store.objects import canonical_json
from headrace.text_templates import placeholders
from headrace.user_files.finding import check_pattern
from headrace.user_files.html_pages import COLUMNS as PAGE_COLUMNS
from headrace.user_files.layout import FileFormat, FileLayout, TextUnit, check_delimiter
from headrace.user_files.ranges import Because, check_ranges
from headrace.user_files.shapes import Before, from_file_of_variable
from headrace.user_files.text_encodings import Encodings, checked_encodings
from headrace.user_files.yaml_file import read_yaml

# Keys that a corpus's digest leaves out at their default.
_LATER_KEYS = (
    *("template_date", "delimiter", "normalize", "twins_jaccard", "example", "language", "personal_data"),
    *("text_markup", "semantic_duplicates"),
)
# Keys that decide as a whole which documents are dropped, and on which side the others stand.
DECISIVE_KEYS = (
    *("normalize", "personal_data", "language", "duplicate_columns", "near_duplicates", "twins_jaccard"),
    *("semantic_duplicates", "heldout_share"),
)


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """One corpus, as its YAML file describes it."""

    name: str
    """Names the corpus in messages and in what is made from it."""
    files: tuple[str, ...]
    """Globs; `{shard}` stands for the shard's key, such as shard-03. Without it, hashes of the files' paths choose
    their shards."""
    format: FileFormat = "auto"
    """`auto`: by the name of each file."""
    encoding: Encodings = ("utf-8",)
    """A text encoding, or a list that is tried in order for each file."""
    delimiter: str | None = None
    """What separates the fields of a CSV; null: comma, semicolon, tab or `|`, as its header shows."""
    text_unit: TextUnit = "line"
    """For plain text: the unit that makes one document."""
    text_markup: Literal["none", "html"] = "none"
    """`html`: the text's column holds HTML, of which the text is taken, as of a file in the format `html`."""
    num_shards: int = 1
    """Partitions of data prep; one fits in memory."""
    columns: dict[str, str] = field(default_factory=lambda: {"text": "text"})
    """Our name → the file's. Only what `example` is made of is needed, such as `text`; a document without an id gets
    one from its content."""
    normalize: Normalization = field(default_factory=Normalization)
    quarantine_share_max: Annotated[float, Ge(0), Le(1)] = 0.01
    """Largest unreadable share of a shard's lines, or of its files; beyond it the partition fails."""
    rules: Annotated[QualityRules, Before(with_limits_of_set)] = field(default_factory=QualityRules)
    language: LanguageRules | None = None
    """null: no document's language is looked for."""
    personal_data: PersonalData | None = None
    """null: none is looked for."""
    duplicate_columns: tuple[Literal["term", "category", "text"], ...] = ("text",)
    """Documents are duplicates if these are equal; add `term` if one text may rightly answer many prompts: they stay,
    and are twins, whose terms stand on one side of the split."""
    near_duplicates: NearDuplicates | None = field(default_factory=NearDuplicates)
    semantic_duplicates: SemanticDuplicates | None = None
    """null: none are looked for."""
    dedup: Deduplication = field(default_factory=Deduplication)
    heldout_share: Annotated[float, Gt(0), Le(0.5)] = 0.02
    """The share of terms that training never sees: a stable hash of the term decides."""
    twins_jaccard: Annotated[float, Ge(0.5), Le(1)] | None = 0.6
    """Documents whose texts overlap by at least so much are on one side of the split, and their terms with them; null:
    only equal terms are."""
    example: Annotated[ExampleForm, Before(form_of, accepts=ExampleKind)] = field(default_factory=ExampleForm)
    prompt: ExamplePrompt | None = None
    """Of completions, which need it: the turns before each, which the document fills."""
    completion: str = "{text}"
    """What the model learns to answer: of completions."""
    sequence_length: Annotated[int, Ge(2), Le(10_000_000), Because("no model reads more")] = 256
    """Tokens of one row of examples, of which the first is never learnt; `example.overlong` says what becomes of longer
    ones."""
    dropped_share_max: Annotated[float, Ge(0), Le(1)] = 0.9
    """Largest share of a shard's documents that a stage may drop, by rules, as duplicates, or as too long for
    `sequence_length`; beyond it the partition fails."""
    labels: Labels | None = None
    template_date: str | None = None
    """The date that the base model's chat template gets when it asks for today's."""

    def __post_init__(self) -> None:
        check_name("name", self.name)
        checked_date("template_date", self.template_date)
        check_num_shards(self.num_shards)
        check_ranges(self)
        if not self.files or not all(glob.strip() for glob in self.files):
            got = f"{list(self.files)!r}" if self.files else "an empty list"
            raise InvalidInput(f"files must list at least one glob, and no empty one, got {got}.")
        for number, pattern in enumerate(self.files):
            check_pattern(f"files[{number}]", pattern, placeholder=SHARD_PLACEHOLDER)
        if "text" not in self.duplicate_columns:
            raise InvalidInput(f"duplicate_columns must hold 'text', got {list(self.duplicate_columns)!r}.")
        self._check_templates()
        self._check_columns()
        # The text of messages is made of them.
        mapped = {*self.columns, "text"}
        if unmapped := [name for name in self.duplicate_columns if name not in mapped]:
            raise InvalidInput(
                f"duplicate_columns has {unmapped[0]!r}, which columns does not map to a column, got "
                f"{sorted(self.columns)}."
            )
        object.__setattr__(self, "encoding", checked_encodings(self.encoding))
        check_delimiter(self.delimiter, self.format)
        self._check_rule_names()

    def _check_rule_names(self) -> None:
        """Of all rules, since those of languages and of personal data are known here alone."""
        of_languages = self.language.rule_names if self.language else []
        if twice := sorted(set(of_languages).intersection(self.rules.rule_names)):
            raise InvalidInput(
                f"rules: drop_matching must name no rule as language.rules does, got {twice[0]!r} in both: rename it."
            )
        # A rule about personal data has the name of its column.
        known = {*OTHER_RULES, *map(found_column, KINDS), *self.rules.rule_names, *of_languages}
        check_share_names(self.rules.shares_max, known)

    def _check_templates(self) -> None:
        kind = self.example.kind
        if kind == "completion" and self.prompt is None:
            raise InvalidInput("The corpus lacks the key 'prompt', which completions need; or let example name a kind.")
        if kind != "completion" and self.prompt is not None:
            raise InvalidInput(f"prompt is for completions, got example of the kind {kind}: leave it out.")
        if not placeholders("completion", self.completion, texts=("term", "category", "text")):
            raise InvalidInput(
                f"completion must hold {{text}}, {{term}} or {{category}}, got {self.completion!r}: every example "
                "would teach the same words."
            )
        if kind != "completion" and self.completion != "{text}":
            raise InvalidInput(f"completion is for completions, got example of the kind {kind}: leave it out.")
        if kind in OF_MESSAGES and self.rules.broken_characters == "repair":
            raise InvalidInput(
                f"rules: broken_characters must be drop or keep for the kind {kind}, got 'repair', which would mend "
                "the text that rules see and not the messages that a model learns."
            )
        if kind in OF_MESSAGES and self.personal_data and (masks := self.personal_data.masks):
            raise InvalidInput(
                f"personal_data: {masks[0]} must be drop or keep for the kind {kind}, got 'mask', which would change "
                "the text that rules see and not the messages that a model learns."
            )

    def _check_columns(self) -> None:
        check_columns(self.example.kind, self.columns)
        text = self.columns.get("text")
        if copies := [name for name in ("term", "category") if text is not None and self.columns.get(name) == text]:
            raise InvalidInput(
                f"columns must not map {copies[0]!r} to the text's own column, got {text!r} twice: the "
                "question would hold its answer."
            )
        for name in self.needed_columns:
            if name not in self.columns:
                raise InvalidInput(f"prompt or completion uses {{{name}}}, which columns does not map to a column.")

        if self.format == "html" and self.text_markup == "html":
            raise InvalidInput(
                "text_markup is for a column of HTML; with format html the text is taken anyway: leave it out."
            )
        if self.format == "html" and (others := set(self.columns.values()) - set(PAGE_COLUMNS)):
            raise InvalidInput(
                f"columns must map to {' or '.join(map(repr, PAGE_COLUMNS))} for HTML, got {sorted(others)[0]!r}."
            )
        if self.format == "text" and set(self.columns) != {"text"}:
            raise InvalidInput(f"columns must map 'text' alone for plain text, got {sorted(self.columns)}.")

    @cached_property
    def digest(self) -> str:
        """Digest of these settings; does not read the files that they name."""
        body = asdict(self)
        # What came later is included only where it is used, so other corpora keep their digest.
        default = _defaults()
        for name in _LATER_KEYS:
            if getattr(self, name) == default[name]:
                del body[name]
        # How many runs compare a corpus changes no document, nor does what may be dropped.
        if body.pop("dedup", None) and self.dedup.over != "corpus":
            body["dedup"] = self.dedup.over
        del body["dropped_share_max"]
        body["rules"] = {
            name: limit
            for name, limit in body["rules"].items()
            if name not in SHARE_KEYS and (name not in LATER_LIMITS or limit is not None)
        }
        if self.labels and self.labels.file:
            defaults = {"encoding": ("utf-8",), "delimiter": None}
            body["labels"]["file"] = {
                name: value for name, value in body["labels"]["file"].items() if value != defaults.get(name, ...)
            }
        # One encoding as its name.
        if len(self.encoding) == 1:
            [body["encoding"]] = self.encoding
        return digest_text("corpus", canonical_json(body).decode())

    @cached_property
    def verdict_digest(self) -> str:
        """Digest of what decides which documents are dropped, and their sides. A shard that is added changes none of
        it, so what was made of the others stays."""
        body = asdict(self)
        # What is not compared decides nothing: what was made before the key was known stays.
        names = [name for name in DECISIVE_KEYS if name != "semantic_duplicates" or body[name]]
        decisive = {name: body[name] for name in names} | {
            "rules": {name: value for name, value in body["rules"].items() if name not in SHARE_KEYS},
            "columns": sorted(self.columns),
            "required": self.required_columns,
            "unwanted": self.labels.drop if self.labels else (),
        }
        if self.labels and self.labels.drop:
            # Labels that were read for another source, or before one went, may be sealed still.
            decisive["label_sources"] = self.labels.sources
        if len(self.duplicate_columns) > 1:
            # Keys that hold the other columns, too, bring no twins together.
            decisive["keys"] = "text"
        return digest_text("verdict", canonical_json(decisive).decode())

    @property
    def layout(self) -> FileLayout:
        return FileLayout(
            columns=tuple(self.columns.values()),
            format=self.format,
            encodings=self.encoding,
            delimiter=self.delimiter,
            text_unit=self.text_unit,
            # Where a line is the text, its end is not.
            bytes_kept=self.normalize.text == "code" and self.text_unit != "line",
        )

    @cached_property
    def needed_columns(self) -> tuple[str, ...]:
        """Ours of the columns that each record must have."""
        kind = self.example.kind
        given = {name for name in ("prompt",) if kind == "pair" and name in self.columns}
        named = given.union(NEEDED_COLUMNS[kind], self._named_columns)
        return tuple(name for name in INPUT_COLUMNS[kind] if name in named)

    @property
    def required_columns(self) -> tuple[str, ...]:
        """Columns that a document needs to make an example: the text, and the columns that the templates name."""
        named = self._named_columns | {"text"}
        return tuple(name for name in INPUT_COLUMNS["completion"] if name in named)

    @property
    def _named_columns(self) -> set[str]:
        if self.prompt is None:
            return set()
        templates = (self.prompt.user, self.prompt.system or "", self.completion)
        return {name for template in templates for name in placeholders("template", template)}

    @property
    def compares_shards(self) -> bool:
        """Whether copies in two shards are looked for, by assets of their own."""
        return self.dedup.over == "corpus" and self.num_shards > 1

    @property
    def shard_keys(self) -> tuple[str, ...]:
        return tuple(corpus_shard(index) for index in range(self.num_shards))

    def globs(self, shard: str) -> tuple[tuple[str, bool], ...]:
        """One shard's globs, each with whether it names the shard itself (then no file is dealt by hash)."""
        return tuple((glob.replace(SHARD_PLACEHOLDER, shard), SHARD_PLACEHOLDER in glob) for glob in self.files)


def _defaults() -> dict[str, Any]:
    """Default of each key of a corpus that has one."""
    found: dict[str, Any] = {}
    for one in fields(Corpus):
        if one.default is not MISSING:
            found[one.name] = one.default
        elif one.default_factory is not MISSING:
            found[one.name] = one.default_factory()
    return found


def load_corpus(path: Path) -> Corpus:
    """Reads and checks a corpus file.

    Raises:
        InvalidInput: the file is missing, not YAML, or describes an unreadable corpus.
    """
    return from_file_of_variable(Corpus, path, "Corpus file", "HEADRACE_CORPUS")


def shard_keys_in(path: Path) -> tuple[tuple[str, ...], str | None]:
    """The shards of a corpus file, and why it cannot be read (None: it can).

    Of a broken file as many as it still tells, else one: then its assets exist, and their runs say what is wrong.
    """
    try:
        return load_corpus(path).shard_keys, None
    except InvalidInput as error:
        faults = str(error)
    num_shards: Any = None
    with suppress(InvalidInput):
        content = read_yaml(path, "Corpus file").content
        num_shards = content.get("num_shards") if isinstance(content, dict) else None
    try:
        shards = check_num_shards(num_shards) if type(num_shards) is int else 1
    except InvalidInput:
        shards = 1
    return tuple(corpus_shard(index) for index in range(shards)), faults


def bucket_keys_in(path: Path) -> tuple[str, ...]:
    """The buckets of a corpus file whose shards are compared with each other; none of another, or of a broken file."""
    try:
        corpus = load_corpus(path)
    except InvalidInput:
        return ()
    return corpus.dedup.bucket_keys if corpus.compares_shards else ()
