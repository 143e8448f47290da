"""Decides which outputs are kept. Its named rules are independent: every rule that a row breaks rejects it.

| rule | rejects |
|---|---|
| failed | rows that the engine could not make |
| empty | no text |
| length | fewer words than `words_min`, or more than `words_max` |
| truncated | outputs that the token limit cut off |
| repetition | too large a share of word trigrams that occurred before in the same output |
| prompt_leaked | outputs that repeat the prompt, or the chat template's markers |
| banned_terms | outputs with a banned word, phrase or sign |

Rules see one output at a time and no model: they catch broken output, not wrong output. Words are words of any script
(`headrace.text.words`); a term matches as written, in any case.
"""

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from headrace.generation.review_settings import ReviewSettings
from headrace.handoff.schemas import schema_named
from headrace.text.words import Running, Term, tokens, words

# Markers of the chat formats in use: ChatML, Llama, Mistral, Gemma.
_MARKERS = re.compile(r"<\|[a-z_]+\|>|\[/?INST\]|<(?:start|end)_of_turn>|^(?:system|user|assistant)\s*:", re.I | re.M)
# In fewer words repetition means nothing: "a kind of a kind" is short, not stuck.
_REPETITION_WORDS_MIN = 12

Rule = Callable[[Mapping[str, Any], ReviewSettings], bool]


@dataclass(frozen=True, kw_only=True)
class Review:
    """The reviewed rows, in the content's order, and how many each rule rejected (0 for rules that rejected none).

    `measured`: of roles that paint or speak, such as `painter.agreement`.
    """

    table: pa.Table
    num_rejected_by: dict[str, int]
    measured: Mapping[str, int | float] = field(default_factory=dict)

    @property
    def num_kept(self) -> int:
        return sum(self.table["kept"].to_pylist())

    @property
    def num_rejected(self) -> int:
        return self.table.num_rows - self.num_kept

    def figures(self) -> dict[str, int | float]:
        """A run's figures, by name and unit."""
        by_rule = {f"num_rejected_by_{rule}": count for rule, count in self.num_rejected_by.items()}
        pass_rate = {"pass_rate": self.num_kept / self.table.num_rows} if self.table.num_rows else {}
        return {"num_kept": self.num_kept, "num_rejected": self.num_rejected, **pass_rate, **by_rule, **self.measured}


def review_rows(content: pa.Table, settings: ReviewSettings) -> Review:
    """Judge every row of a GENERATED_CONTENT table; the result is REVIEWED_CONTENT, with what the rows carry."""
    rows = content.select(["prompt", "output", "finish_reason"]).to_pylist()
    return reviewed_table(content, [rejections(row, settings) for row in rows], tuple(RULES))


def reviewed_table(
    content: pa.Table,
    verdicts: Sequence[Sequence[str]],
    rules: Sequence[str],
    measured: Mapping[str, int | float] | None = None,
) -> Review:
    """The rows with their verdicts. `rules`: all that were applied, of any kind of part."""
    counts = dict.fromkeys(rules, 0) | Counter(rule for broken in verdicts for rule in broken)
    wanted = schema_named("reviewed_content", content.schema)
    copied = content.select([name for name in wanted.names if name in content.column_names])
    table = copied.append_column("kept", pa.array([not broken for broken in verdicts], pa.bool_()))
    table = table.append_column("rejected_by", pa.array(verdicts, pa.list_(pa.string())))
    return Review(
        table=table.select(wanted.names).cast(wanted),
        num_rejected_by=counts,
        measured=measured or {},
    )


def rejections(row: Mapping[str, Any], settings: ReviewSettings) -> list[str]:
    """The rules that a row (`prompt`, `output`, `finish_reason`) breaks.

    A row without output breaks only one rule, which also explains the missing words.
    """
    for alone in ("failed", "empty"):
        if RULES[alone](row, settings):
            return [alone]
    return [name for name, breaks in RULES.items() if breaks(row, settings)]


def repeated_share(output: str) -> float:
    """Share of an output's word trigrams that occurred before in it; 0 for short outputs."""
    spoken = [word.lower() for word in words(output)]
    if len(spoken) < _REPETITION_WORDS_MIN:
        return 0.0
    trigrams = list(zip(spoken, spoken[1:], spoken[2:], strict=False))
    return 1 - len(set(trigrams)) / len(trigrams)


def _failed(row: Mapping[str, Any], settings: ReviewSettings) -> bool:
    return row["finish_reason"] == "error"


def _empty(row: Mapping[str, Any], settings: ReviewSettings) -> bool:
    return not row["output"].strip()


def _length(row: Mapping[str, Any], settings: ReviewSettings) -> bool:
    num_words = len(words(row["output"]))
    too_short = settings.words_min is not None and num_words < settings.words_min
    too_long = settings.words_max is not None and num_words > settings.words_max
    return too_short or too_long


def _truncated(row: Mapping[str, Any], settings: ReviewSettings) -> bool:
    return settings.reject_truncated and row["finish_reason"] == "length"


def _repetition(row: Mapping[str, Any], settings: ReviewSettings) -> bool:
    return settings.repeated_share_max is not None and repeated_share(row["output"]) > settings.repeated_share_max


def _prompt_leaked(row: Mapping[str, Any], settings: ReviewSettings) -> bool:
    if not settings.reject_prompt_leaks:
        return False
    return _repeats(row["output"], row["prompt"]) or bool(_MARKERS.search(row["output"]))


def _banned_terms(row: Mapping[str, Any], settings: ReviewSettings) -> bool:
    output = Running(row["output"])
    return any(Term(term).stands_in(output) for term in settings.banned_terms)


def _repeats(output: str, prompt: str) -> bool:
    """Whether the output contains the prompt's words, despite quotation marks, case and line breaks."""
    wanted = tokens(prompt)
    if not wanted:
        return Term(prompt).stands_in(Running(output))
    return "\0".join(["", *wanted, ""]) in "\0".join(["", *tokens(output), ""])


RULES: dict[str, Rule] = {
    "failed": _failed,
    "empty": _empty,
    "length": _length,
    "truncated": _truncated,
    "repetition": _repetition,
    "prompt_leaked": _prompt_leaked,
    "banned_terms": _banned_terms,
}
