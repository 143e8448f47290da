"""Addresses, numbers and keys of people in documents: masked, or reason to drop the document, kind by kind.

What is found in a text, term, category, example or message stands in no clean document, and what is shown of a dropped
one or a record that cannot be read has placeholders. Raw documents keep it, as does the quarantine; who must not have
it there deletes their versions. Ids that the file gives are not looked at: results and checks name documents by them.
How it is found, and what is not: `personal_patterns`.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import polars as pl

from headrace.prep.personal_reading import read, readings
from headrace.prep.personal_settings import Kind, PersonalData, found_column

if TYPE_CHECKING:
    from headrace.prep.personal_patterns import Finder

_PLACEHOLDERS: dict[Kind, str] = {
    "secret": "SECRET",
    "email": "EMAIL",
    "iban": "IBAN",
    "card": "CARD",
    "ip": "IP_ADDRESS",
    "phone": "PHONE",
}
_ANY_PLACEHOLDER = rf"<(?:{'|'.join(_PLACEHOLDERS.values())})(?:_\d+)?>"
# Of these, values are one however their digits are grouped; "a.b@x.com" and "ab@x.com" are two.
_GROUPED: tuple[Kind, ...] = ("iban", "card", "phone")
_TEXTS = ("text", "term", "category")


def without_personal_data(text: str, settings: PersonalData | None) -> str:
    """A text that is only shown, with a placeholder for what is looked for, whether that is masked or drops."""
    if settings is None:
        return text
    finders = _finders(settings)
    return _Masker(settings, finders, [True] * len(finders)).text(text)


def without_placeholders(texts: pl.Series) -> pl.Series:
    """Texts for what looks at words: a placeholder is none of the document's language."""
    return texts.str.replace_all(_ANY_PLACEHOLDER, " ")


def dropped_for_personal_data(documents: pl.DataFrame, settings: PersonalData | None) -> pl.Series:
    """Which of `masked`'s documents hold what drops them."""
    counts = [found_column(kind) for kind in (settings.drops if settings else ())]
    return pl.Series("dropped", [any(row) for row in documents.select(counts).rows()] or [False] * documents.height)


def masked(documents: pl.DataFrame, settings: PersonalData) -> pl.DataFrame:
    """The documents with placeholders in all their texts, and how many of each kind each one held."""
    finders = _finders(settings)
    columns = (*_TEXTS, "examples")
    looked_at = [*columns, *_messages_in(documents)]
    texts = documents.select(looked_at).with_columns(pl.col("examples").list.join("\n"))
    seen = pl.DataFrame([read(text) for text in texts])
    suspects = seen.select(
        pl.any_horizontal(pl.col(name).str.contains(one.may_hold) for name in looked_at)
        .fill_null(False)
        .alias(one.kind)
        for one in finders
    )
    places = suspects.select(pl.any_horizontal(pl.all()).arg_true()).to_series()
    flags = suspects[places].rows()
    rows = documents[places].select(columns).rows()
    messages = documents[places].get_column("messages") if _messages_in(documents) else [None] * len(rows)
    changed = [
        (place, *_Masker(settings, finders, flag).row(row, said))
        for place, row, said, flag in zip(places, rows, messages, flags, strict=True)
    ]
    counts = [found_column(one.kind) for one in finders]
    schema = {"place": pl.UInt32, **{f"{name} masked": documents.schema[name] for name in columns}}
    schema |= dict.fromkeys(counts, pl.Int64)
    new = pl.DataFrame(changed, schema=schema, orient="row")
    return (
        documents.with_row_index("place")
        .join(new, on="place", how="left", maintain_order="left")
        .with_columns(
            *(pl.coalesce(f"{name} masked", name).alias(name) for name in columns), pl.col(counts).fill_null(0)
        )
        .select(*documents.columns, *counts)
    )


def _finders(settings: PersonalData) -> "list[Finder]":
    # Their expressions take as long to compile as many a module to import, and most corpora look for none.
    from headrace.prep.personal_patterns import finder

    return [finder(kind, settings.phone_regions) for kind in settings.looked_for]


def _messages_in(documents: pl.DataFrame) -> list[str]:
    return [name for name in ("messages",) if name in documents.columns]


def _strings(value: object) -> Iterator[str]:
    """All texts and numbers in a value of JSON, keys too."""
    if isinstance(value, dict):
        for key, one in value.items():
            yield key
            yield from _strings(one)
    elif isinstance(value, list):
        for one in value:
            yield from _strings(one)
    elif value is not None:
        yield str(value)


class _Masker:
    """Masks the texts of one document, so that one value has one number in all of them."""

    def __init__(self, settings: PersonalData, finders: "Sequence[Finder]", suspected: Sequence[bool]) -> None:
        self._numbered = settings.number_placeholders
        self._finders = [one for one, suspect in zip(finders, suspected, strict=True) if suspect]
        self._numbers: dict[Kind, dict[str, int]] = {kind: {} for kind in settings.looked_for}
        self._counts: dict[Kind, int] = dict.fromkeys(settings.looked_for, 0)

    def row(self, row: tuple[Any, ...], messages: str | None) -> tuple[Any, ...]:
        """Texts and a list of texts as they are to be, and how much was found of each kind.

        `messages` hold what the text leaves out, such as system turns; what is found in both counts once.
        """
        *texts, examples = row
        changed = [None if text is None else self.text(text) for text in texts]
        listed = None if examples is None else [self.text(text) for text in examples]
        counts = [*self._counts.values()]
        if messages is not None:
            self._counts = dict.fromkeys(self._counts, 0)
            for text in _strings(json.loads(messages)):
                self.text(text)
            counts = [*map(max, counts, self._counts.values())]
        return (*changed, listed, *counts)

    def text(self, text: str) -> str:
        found: list[tuple[int, int, Kind]] = []
        rest = text
        for one in self._finders:
            spans = [*one.spans(rest)]
            found.extend((start, end, one.kind) for start, end in spans)
            # So that a number beside it stands alone, and nothing is found twice.
            rest = _replaced(rest, ((start, end, "\0" * (end - start)) for start, end in spans))
        for _, _, kind in found:
            self._counts[kind] += 1
        return _replaced(
            text, ((start, end, self._placeholder(kind, text[start:end])) for start, end, kind in sorted(found))
        )

    def _placeholder(self, kind: Kind, value: str) -> str:
        if not self._numbered:
            return f"<{_PLACEHOLDERS[kind]}>"
        value = readings(value)[0].text
        plain = value if kind == "secret" else value.casefold()
        if kind in _GROUPED:
            plain = "".join(filter(str.isalnum, plain))
        numbers = self._numbers[kind]
        return f"<{_PLACEHOLDERS[kind]}_{numbers.setdefault(plain, len(numbers) + 1)}>"


def _replaced(text: str, changes: Iterable[tuple[int, int, str]]) -> str:
    """Args:
    changes: start, end, and what is to stand there, in order.
    """
    parts, done = [], 0
    for start, end, new in changes:
        parts += [text[done:start], new]
        done = end
    return "".join([*parts, text[done:]])
