"""The quality rules as data: what each measures, where its limit lies, for which kind of corpus, and whose it is.

A rule compares one figure of a text with one limit: a count, or a share of two counts. Counts are by characters and by
words (`token_rule`: in Chinese, Japanese, Thai, Khmer and their like each character is a word); nothing here knows
truth, politeness or topic. Which rules a corpus has is its rule set, with limits of its own.

Sources: Gopher: Rae et al. 2021, table A1 and section A.1.1. C4: Raffel et al. 2020, section 2.2. FineWeb: Penedo et
al. 2024, section 3.6. Codex: Chen et al. 2021, section 3.1. Ours: tried on dictionary glosses, instructions and
documentation. What C4 and RefinedWeb (Penedo et al. 2023, G.2) do to single lines is not done.
"""

import difflib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, Self

import polars as pl
from annotated_types import Ge, Gt, Le

from headrace.errors import InvalidInput
from headrace.keys import check_name
from headrace.user_files.ranges import check_ranges

RuleSet = Literal["web", "fineweb", "instructions", "code", "short", "none"]
Source = Literal["Gopher", "C4", "FineWeb", "Codex", "ours", "the corpus file"]


@dataclass(frozen=True, kw_only=True)
class Figure:
    """What a rule looks at: `count`, or `count` divided by `of`; more than `most` or less than `least` drops a text.

    Counts are columns of `measures.MEASURES`, or how often one of `PHRASES` occurs. A text with fewer than `words_min`
    words, or with no `of`, is not judged.
    """

    rule: str
    source: Source
    count: tuple[str, ...]
    of: str | None = None
    bound: Literal["least", "most"]
    words_min: int = 0


_NGRAMS = {f"top_{length}_gram_share_max": f"top_{length}_gram_characters" for length in (2, 3, 4)} | {
    f"repeated_{length}_gram_share_max": f"repeated_{length}_gram_characters" for length in range(5, 11)
}

# A limit's key in a corpus file → its figure, in the order in which rules count their drops.
FIGURES: Mapping[str, Figure] = {
    "words_min": Figure(rule="too_few_words", source="Gopher", count=("words",), bound="least"),
    "words_max": Figure(rule="too_many_words", source="Gopher", count=("words",), bound="most"),
    "letters_share_min": Figure(
        rule="too_few_letters", source="Codex", count=("letters",), of="characters", bound="least"
    ),
    "letter_words_share_min": Figure(
        rule="too_few_letter_words", source="Gopher", count=("letter_words",), of="words", bound="least"
    ),
    "mean_word_length_min": Figure(
        rule="words_too_short", source="Gopher", count=("spaced_word_characters",), of="spaced_words", bound="least"
    ),
    "mean_word_length_max": Figure(
        rule="words_too_long", source="Gopher", count=("spaced_word_characters",), of="spaced_words", bound="most"
    ),
    "stop_words_min": Figure(rule="too_few_stop_words", source="Gopher", count=("stop_words",), bound="least"),
    "symbols_share_max": Figure(
        rule="too_many_symbols", source="Gopher", count=("hashes", "ellipses"), of="words", bound="most"
    ),
    "line_length_max": Figure(rule="line_too_long", source="Codex", count=("longest_line",), bound="most"),
    "mean_line_length_max": Figure(
        rule="lines_too_long", source="Codex", count=("line_characters",), of="lines", bound="most"
    ),
    "bullet_lines_share_max": Figure(
        rule="too_many_bullets", source="Gopher", count=("bullet_lines",), of="lines", bound="most"
    ),
    "ellipsis_lines_share_max": Figure(
        rule="too_many_ellipses", source="Gopher", count=("ellipsis_lines",), of="lines", bound="most"
    ),
    # With fewer than ten words, a repeated word is grammar ("the … of the …"), not a fault.
    "repeated_words_share_max": Figure(
        rule="repeated_words", source="ours", count=("repeated_words",), of="words", bound="most", words_min=10
    ),
    "repeated_lines_share_max": Figure(
        rule="repeated_lines", source="Gopher", count=("repeated_lines",), of="lines", bound="most"
    ),
    "repeated_line_characters_share_max": Figure(
        rule="repeated_line_characters", source="Gopher", count=("repeated_line_characters",), of="length", bound="most"
    ),
    "repeated_paragraphs_share_max": Figure(
        rule="repeated_paragraphs", source="Gopher", count=("repeated_paragraphs",), of="paragraphs", bound="most"
    ),
    "repeated_paragraph_characters_share_max": Figure(
        rule="repeated_paragraph_characters",
        source="Gopher",
        count=("repeated_paragraph_characters",),
        of="length",
        bound="most",
    ),
    **{
        limit: Figure(rule=limit.removesuffix("_share_max"), source="Gopher", count=(count,), of="length", bound="most")
        for limit, count in _NGRAMS.items()
    },
    "ended_lines_share_min": Figure(
        rule="too_few_ended_lines", source="FineWeb", count=("ended_lines",), of="lines", bound="least"
    ),
    "short_lines_share_max": Figure(
        rule="too_many_short_lines", source="FineWeb", count=("short_lines",), of="lines", bound="most"
    ),
    "newlines_share_max": Figure(
        rule="too_many_newlines", source="FineWeb", count=("newlines",), of="words", bound="most"
    ),
    "sentences_min": Figure(rule="too_few_sentences", source="C4", count=("sentences",), bound="least"),
    "curly_brackets_max": Figure(rule="curly_brackets", source="C4", count=("curly_brackets",), bound="most"),
    "filler_max": Figure(rule="filler", source="C4", count=("filler",), bound="most"),
}

# What is counted by a regular expression (Rust syntax).
PHRASES = {"filler": "(?i)lorem ipsum"}
# Rules that look at no figure, and are no rule set's.
OTHER_RULES = (
    *("text_empty", "template_incomplete", "language", "label_unwanted"),
    *("exact_duplicate", "near_duplicate", "semantic_duplicate"),
)
# Limits that a corpus's digest leaves out where they are null.
LATER_LIMITS = tuple(FIGURES)[-6:]
# Keys that drop nothing.
SHARE_KEYS = ("share_max", "shares_max")

# Counts that cost a second pass over a text; only wanted if a rule looks at them.
OF_REPETITION = {
    *("repeated_lines", "repeated_line_characters", "paragraphs", "repeated_paragraphs"),
    *("repeated_paragraph_characters", *_NGRAMS.values()),
}

# Gopher's; a text of another language has few of them, so the rule asks whether a text is English prose.
STOP_WORDS = ("the", "be", "to", "of", "and", "that", "have", "with")

_GOPHER = {
    "words_min": 50,
    "words_max": 100_000,
    "mean_word_length_min": 3,
    "mean_word_length_max": 10,
    "symbols_share_max": 0.1,
    "bullet_lines_share_max": 0.9,
    "ellipsis_lines_share_max": 0.3,
    "letter_words_share_min": 0.8,
    "repeated_lines_share_max": 0.3,
    "repeated_line_characters_share_max": 0.2,
    "repeated_paragraphs_share_max": 0.3,
    "repeated_paragraph_characters_share_max": 0.2,
    "top_2_gram_share_max": 0.2,
    "top_3_gram_share_max": 0.18,
    "top_4_gram_share_max": 0.16,
    "repeated_5_gram_share_max": 0.15,
    "repeated_6_gram_share_max": 0.14,
    "repeated_7_gram_share_max": 0.13,
    "repeated_8_gram_share_max": 0.12,
    "repeated_9_gram_share_max": 0.11,
    "repeated_10_gram_share_max": 0.1,
}

LIMITS: Mapping[RuleSet, Mapping[str, float | str]] = {
    # Gopher, all of it.
    "web": _GOPHER,
    # Gopher, for English, and what FineWeb and C4 drop whole documents for. They remove lines, too; that is not done.
    "fineweb": {
        **_GOPHER,
        "stop_words_min": 2,
        "ended_lines_share_min": 0.12,
        "short_lines_share_max": 0.67,
        "newlines_share_max": 0.3,
        # FineWeb's, where Gopher's is 0.2.
        "repeated_line_characters_share_max": 0.1,
        # FineWeb's, where C4's is 5.
        "sentences_min": 3,
        "filler_max": 0,
    },
    # Ours: an answer may be "42", a table or a program; only babble goes.
    "instructions": {"repeated_words_share_max": 0.8},
    # Codex: lines of minified or generated files, and data in a program's clothes.
    "code": {"line_length_max": 1000, "mean_line_length_max": 100, "letters_share_min": 0.25},
    # Ours: glosses, titles, captions.
    "short": {
        "words_min": 2,
        "words_max": 400,
        "letters_share_min": 0.5,
        "mean_word_length_max": 14,
        "repeated_words_share_max": 0.6,
        "symbols_share_max": 0.1,
    },
    "none": {"broken_characters": "keep"},
}


@dataclass(frozen=True, kw_only=True)
class QualityRules:
    """A rule set and limits of one's own in it; null turns a rule off, and a limit that is not named is the set's."""

    set: RuleSet = "instructions"
    """`web` (Gopher's rules), `fineweb` (Gopher's, FineWeb's and C4's, for English), `instructions` (answers: only
    babble goes), `code`, `short` (glosses, titles, captions), `none`."""
    words_min: Annotated[int, Ge(0)] | None = None
    """Texts with fewer words are dropped (Gopher)."""
    words_max: Annotated[int, Ge(0)] | None = None
    """Texts with more words are dropped (Gopher)."""
    letters_share_min: Annotated[float, Ge(0), Le(1)] | None = None
    """Texts are dropped if fewer of their visible characters are letters (Codex)."""
    letter_words_share_min: Annotated[float, Ge(0), Le(1)] | None = None
    """Texts are dropped if fewer of their words have a letter (Gopher)."""
    mean_word_length_min: Annotated[float, Gt(0)] | None = None
    """Texts are dropped if their words are shorter than this, on average, but for scripts without blanks (Gopher)."""
    mean_word_length_max: Annotated[float, Gt(0)] | None = None
    """Texts are dropped if their words are longer than this, on average, but for scripts without blanks (Gopher)."""
    stop_words_min: Annotated[int, Ge(0), Le(8)] | None = None
    """Texts are dropped if fewer of *the, be, to, of, and, that, have, with* are in them (Gopher)."""
    symbols_share_max: Annotated[float, Ge(0)] | None = None
    """Texts are dropped if they have more `#` and `…` than this share of their words (Gopher)."""
    line_length_max: Annotated[int, Ge(1)] | None = None
    """Texts with a longer line are dropped, in characters (Codex)."""
    mean_line_length_max: Annotated[float, Gt(0)] | None = None
    """Texts are dropped if their lines are longer than this, on average, in characters (Codex)."""
    bullet_lines_share_max: Annotated[float, Ge(0), Le(1)] | None = None
    """Texts are dropped if more of their lines begin with a bullet or a dash (Gopher)."""
    ellipsis_lines_share_max: Annotated[float, Ge(0), Le(1)] | None = None
    """Texts are dropped if more of their lines end with an ellipsis (Gopher)."""
    repeated_words_share_max: Annotated[float, Ge(0), Le(1)] | None = 0.8
    """Texts of ten words or more are dropped if more of their words are among the fifty words before (Ours)."""
    repeated_lines_share_max: Annotated[float, Ge(0), Le(1)] | None = None
    """Texts are dropped if more of their lines occurred before (Gopher)."""
    repeated_line_characters_share_max: Annotated[float, Ge(0), Le(1)] | None = None
    """Texts are dropped if more of their characters are in lines that occurred before (Gopher)."""
    repeated_paragraphs_share_max: Annotated[float, Ge(0), Le(1)] | None = None
    """Texts are dropped if more of their paragraphs occurred before (Gopher)."""
    repeated_paragraph_characters_share_max: Annotated[float, Ge(0), Le(1)] | None = None
    """Texts are dropped if more of their characters are in paragraphs that occurred before (Gopher)."""
    top_2_gram_share_max: Annotated[float, Ge(0), Le(1)] | None = None
    """Texts are dropped if more of their characters are in the 2 words that most often follow each other (Gopher)."""
    top_3_gram_share_max: Annotated[float, Ge(0), Le(1)] | None = None
    """Texts are dropped if more of their characters are in the 3 words that most often follow each other (Gopher)."""
    top_4_gram_share_max: Annotated[float, Ge(0), Le(1)] | None = None
    """Texts are dropped if more of their characters are in the 4 words that most often follow each other (Gopher)."""
    repeated_5_gram_share_max: Annotated[float, Ge(0), Le(1)] | None = None
    """Texts are dropped if more of their characters are in 5 words that followed each other before (Gopher)."""
    repeated_6_gram_share_max: Annotated[float, Ge(0), Le(1)] | None = None
    """Texts are dropped if more of their characters are in 6 words that followed each other before (Gopher)."""
    repeated_7_gram_share_max: Annotated[float, Ge(0), Le(1)] | None = None
    """Texts are dropped if more of their characters are in 7 words that followed each other before (Gopher)."""
    repeated_8_gram_share_max: Annotated[float, Ge(0), Le(1)] | None = None
    """Texts are dropped if more of their characters are in 8 words that followed each other before (Gopher)."""
    repeated_9_gram_share_max: Annotated[float, Ge(0), Le(1)] | None = None
    """Texts are dropped if more of their characters are in 9 words that followed each other before (Gopher)."""
    repeated_10_gram_share_max: Annotated[float, Ge(0), Le(1)] | None = None
    """Texts are dropped if more of their characters are in 10 words that followed each other before (Gopher)."""
    ended_lines_share_min: Annotated[float, Ge(0), Le(1)] | None = None
    """Texts are dropped if fewer of their lines end a sentence, with or without a quote behind it (FineWeb)."""
    short_lines_share_max: Annotated[float, Ge(0), Le(1)] | None = None
    """Texts are dropped if more of their lines have 30 characters or fewer (FineWeb)."""
    newlines_share_max: Annotated[float, Ge(0)] | None = None
    """Texts are dropped if they have more line ends than this share of their words: lists (FineWeb)."""
    sentences_min: Annotated[int, Ge(0)] | None = None
    """Texts with fewer ends of sentences are dropped (C4)."""
    curly_brackets_max: Annotated[int, Ge(0)] | None = None
    """Texts with more `{` are dropped: 0 drops what has any, which is seldom prose (C4)."""
    filler_max: Annotated[int, Ge(0)] | None = None
    """Texts are dropped if *lorem ipsum* is in them more often (C4)."""
    broken_characters: Literal["drop", "repair", "keep"] = "drop"
    """What becomes of texts that a wrong decoder has spoilt: a text is broken if undoing that makes it better."""
    drop_matching: dict[str, str] = field(default_factory=dict)
    """Your own rules: name → regular expression (Rust syntax); the rule `matches_<name>` drops matching texts."""

    share_max: Annotated[float, Ge(0), Le(1)] = 0.5
    """The check `rule_shares` of clean_documents fails if one of these rules drops a larger share of the documents."""
    shares_max: dict[str, float] = field(default_factory=dict)
    """The same for a rule by its name, also for `exact_duplicate` and `near_duplicate`, which have no other limit. The
    rules of a language have names of their own: `too_few_words` says nothing of `too_few_words_zh`."""

    def __post_init__(self) -> None:
        check_ranges(self)
        for rule, share in self.shares_max.items():
            if not 0 <= share <= 1:
                raise InvalidInput(f"shares_max.{rule} must be between 0 and 1, got {share:g}.")
        for least, most in (("words_min", "words_max"), ("mean_word_length_min", "mean_word_length_max")):
            low, high = getattr(self, least), getattr(self, most)
            if low is not None and high is not None and low > high:
                # Nobody finds in the file what the set brings.
                whose = [
                    f"; the set {self.set} has {name} {limit}"
                    for name, limit in LIMITS[self.set].items()
                    if (name, limit) in ((least, low), (most, high))
                ]
                raise InvalidInput(f"{least} must not exceed {most}, got {low:g} and {high:g}{''.join(whose)}.")
        for name, pattern in self.drop_matching.items():
            check_name("drop_matching", name)
            _check_pattern(f"drop_matching.{name}", pattern)

    @property
    def rule_names(self) -> list[str]:
        """The rules that these limits make, also those that are off."""
        figures = [figure.rule for figure in FIGURES.values()]
        return ["broken_characters", *figures, *(f"matches_{name}" for name in self.drop_matching)]

    @classmethod
    def of(cls, rule_set: RuleSet, **limits: Any) -> Self:
        """A rule set's limits, but for those that are named."""
        return cls(**with_limits_of_set({"set": rule_set} | limits))


def with_limits_of_set(rules: Any) -> Any:
    """The section of a corpus file with the limits that its set has and that it does not name."""
    rule_set = rules.get("set", QualityRules.set) if isinstance(rules, Mapping) else None
    # What a file has there, such as a list, may be no key at all; types are checked after this.
    limits = next((limits for name, limits in LIMITS.items() if name == rule_set), None)
    return rules if limits is None else {**dict.fromkeys(FIGURES), **limits, **rules}


def check_share_names(shares: Mapping[str, float], known: Collection[str]) -> None:
    """Raises: InvalidInput: there is no such rule."""
    for rule in shares:
        if rule not in known:
            near = difflib.get_close_matches(rule, known, n=1, cutoff=0.6)
            hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(sorted(known))}."
            raise InvalidInput(f"rules: shares_max must name rules, got {rule!r}; {hint}")


def refuse_shares(where: str, rules: QualityRules, instead: str) -> None:
    """Raises: InvalidInput: the rules say what may be dropped where nothing looks at it."""
    for key in SHARE_KEYS:
        if (got := getattr(rules, key)) != getattr(QualityRules(), key):
            raise InvalidInput(f"{where}: {key} must be left out here, got {got}: {instead}.")


def _check_pattern(name: str, pattern: str) -> None:
    try:
        matched = pl.Series(["", "a", "one, 2."]).str.contains(pattern)
    except pl.exceptions.ComputeError as error:
        # The library shows the pattern, marks the place and ends with its expression, over many lines.
        reason = next((line for line in str(error).splitlines() if line.startswith("error: ")), "it cannot be read")
        raise InvalidInput(
            f"{name} is not a regular expression, got {pattern!r}: {reason.removeprefix('error: ')}."
        ) from error
    if matched.all():
        raise InvalidInput(f"{name} matches every text, and would drop all documents, got {pattern!r}.")
