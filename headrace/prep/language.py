"""The language of each document, by CLD2: what a corpus keeps, and rules of its own for a language.

CLD2 (pycld2) knows 165 languages by groups of four letters, by single characters of Chinese, Japanese and Korean, and
by script where that decides. It is right for 99 of 100 texts of 300 characters in 33 languages, for 95 of texts of 40;
it confuses what is close: Malay and Indonesian, Danish and Norwegian, Bosnian, Croatian and Serbian. It takes programs
for English. Only the beginning of a text is looked at, so a document that changes its language later has that of its
beginning.

Short Chinese texts it takes for Japanese at times. A text without kana, and without a character that Japan alone
writes, is Chinese here; a Japanese title of such characters alone is told as Chinese, too.

Source: docs/decisions/0031, with the libraries that were measured beside it.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Annotated

import polars as pl
from annotated_types import Ge, Le

from headrace.errors import InvalidInput
from headrace.prep.rule_sets import QualityRules, refuse_shares, with_limits_of_set
from headrace.prep.utf8 import utf8_batches
from headrace.user_files.ranges import check_ranges
from headrace.user_files.shapes import Before

# More changes the answer for few texts, and takes its time.
_BYTES_MAX = 32 * 1024
# What CLD2 refuses as no text: control characters, and code points that Unicode keeps free for ever.
_NO_TEXT = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ufdd0-\ufdef\ufffe\uffff]|[^\x00-\uffff]")
_UNKNOWN = "un"
# CLD2's codes are older than the standard that the others follow.
_TODAY = {"iw": "he", "jw": "jv"}
# Chinese prose with a program or names in it has more letters of English than of Chinese, and is Chinese.
_ONE_LETTER_WORDS, _LETTERS_A_WORD = frozenset({"zh", "ja", "ko"}), 4
# Without the dot between words, which Chinese has in foreign names.
_KANA = re.compile("[\u3041-\u309f\u30a1-\u30fa\u30fc-\u30ff\u31f0-\u31ff\uff66-\uff9f]")


@dataclass(frozen=True, kw_only=True)
class LanguageRules:
    """Finds the language of each document's text, for the column `language` and for rules."""

    keep: tuple[str, ...] | None = None
    """The rule `language` drops documents in others. Codes as `en`, `zh`, `pt`; `zh` covers `zh-Hant`; null: all are
    kept."""
    keep_unknown: bool = True
    """Whether `keep` keeps texts that show no language: numbers, names, a few words."""
    share_min: Annotated[float, Ge(0), Le(0.9)] = 0.5
    """A text in which no language has this share of the letters has none; 0: the one with most of them counts. One
    letter of Chinese, Japanese or Korean counts as four."""
    rules: dict[str, Annotated[QualityRules, Before(with_limits_of_set)]] = field(default_factory=dict)
    """Language → the quality rules that its documents have in place of the corpus's; each counts its drops under the
    rule's name with the language behind it: `too_few_words_zh`. What they may drop, the corpus's own rules say."""

    @property
    def rule_names(self) -> list[str]:
        """The rules that languages have of their own, also those that are off."""
        return [f"{name}_{suffix(code)}" for code, rules in self.rules.items() for name in rules.rule_names]

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.keep is not None and not self.keep:
            raise InvalidInput("keep must list at least one language, or be null for all, got an empty list.")
        for code in self.keep or ():
            _check_language("keep", code)
        for code, rules in self.rules.items():
            _check_language("rules", code)
            own = f"write shares_max: {{too_few_words_{suffix(code)}: 0.6}} in the corpus's own rules"
            refuse_shares(f"rules: {code}", rules, own)
            if rules.broken_characters == "repair":
                raise InvalidInput(
                    f"rules.{code}.broken_characters must be drop or keep, got repair: texts are repaired before "
                    "their language is known; write it in the corpus's own rules."
                )
            if self.keep is not None and not any(is_within(code, kept) for kept in self.keep):
                raise InvalidInput(f"rules has {code!r}, which keep drops, got keep {list(self.keep)}.")


def suffix(code: str) -> str:
    """What a rule's name ends with where it is a language's."""
    return code.replace("-", "_")


def is_within(code: str, wider: str) -> bool:
    return code == wider or code.startswith(f"{wider}-")


def speaks(code: str) -> pl.Expr:
    """Whether a document is in a language, or in a form of it: zh-Hant is zh."""
    language = pl.col("language")
    return ((language == code) | language.str.starts_with(f"{code}-")).fill_null(False)


def languages(texts: pl.Series, settings: LanguageRules) -> pl.Series:
    """The language of most of each text's letters; null: none is told, or none has `share_min` of them."""
    found = (_language(text, settings.share_min) for text in _beginnings(texts))
    return pl.Series("language", list(found), dtype=pl.String)


def _beginnings(texts: pl.Series) -> Iterator[bytes]:
    for _, data, ends in utf8_batches(texts):
        for start, end in zip(ends[:-1].tolist(), ends[1:].tolist(), strict=True):
            stop = min(end, start + _BYTES_MAX)
            # Not within a character.
            while stop < end and data[stop] & 0xC0 == 0x80:
                stop -= 1
            yield data[start:stop].tobytes()


def _language(text: bytes, share_min: float) -> str | None:
    import pycld2

    try:
        _, _, found = pycld2.detect(text, isPlainText=True, bestEffort=True)
    except pycld2.error:
        try:
            _, _, found = pycld2.detect(_NO_TEXT.sub(" ", text.decode()), isPlainText=True, bestEffort=True)
        except pycld2.error:
            return None
    # What is in none of the languages told, such as numbers, weighs as letters do.
    weights: dict[str, int] = {
        _TODAY.get(code) or code: percent * _letters_a_word(code) for _, code, percent, _ in found
    }
    if "ja" in weights and (form := _chinese_form(text.decode(), weights)):
        weights[form] = weights.pop("ja") + weights.get(form, 0)
    language = max(weights, key=lambda code: weights[code])
    whole = sum(weights.values()) + max(0, 100 - sum(percent for _, _, percent, _ in found))
    return None if language == _UNKNOWN or weights[language] < share_min * whole else language


def _chinese_form(text: str, weights: Mapping[str, int]) -> str | None:
    """`zh` or `zh-Hant`, by the characters that only one of them has, else by CLD2; None: the text may be Japanese."""
    simplified, traditional, japanese = _characters_of_one_script()
    if _KANA.search(text) or not japanese.isdisjoint(text):
        return None
    num_simplified, num_traditional = (sum(map(script.__contains__, text)) for script in (simplified, traditional))
    if num_simplified == num_traditional:
        return max(("zh", "zh-Hant"), key=lambda form: weights.get(form, 0))
    return "zh" if num_simplified > num_traditional else "zh-Hant"


@cache
def _characters_of_one_script() -> tuple[frozenset[str], frozenset[str], frozenset[str]]:
    """Characters that are in one of two national standards alone: GB 2312 or Big5; and in JIS X 0208 and neither."""
    han = "".join(map(chr, range(0x4E00, 0xA000)))
    china, taiwan, japan = (
        frozenset(han.encode(codec, "ignore").decode(codec)) for codec in ("gb2312", "big5", "shift_jis")
    )
    return china - taiwan, taiwan - china, japan - china - taiwan


def _letters_a_word(code: str) -> int:
    """How many letters of English say as much as one letter of a language."""
    return _LETTERS_A_WORD if code.split("-")[0] in _ONE_LETTER_WORDS else 1


@cache
def known_languages() -> frozenset[str]:
    """The codes of the languages that can be told."""
    import pycld2

    codes: dict[str, str] = {name: code for name, code in pycld2.LANGUAGES if code}
    found = {codes[name] for name in pycld2.DETECTED_LANGUAGES}
    return frozenset(_TODAY.get(code, code) for code in found)


def _check_language(where: str, code: str) -> None:
    if code in (known := known_languages()):
        return
    import pycld2

    by_name = {name.lower(): _TODAY.get(code, code) for name, code in pycld2.LANGUAGES if code}
    wider = code.lower().replace("_", "-").split("-")[0]
    near = by_name.get(code.lower()) or (wider if wider in known else None)
    hint = f": write {near}" if near else f", known are {', '.join(sorted(known))}"
    raise InvalidInput(f"{where} must name languages by their codes, got {code!r}{hint}.")
