"""What a person meant by a key that no file of its kind has, as the end of the sentence that refuses it."""

import difflib
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import fields, is_dataclass
from typing import get_args, get_type_hints


def nearest_key(key: str, cls: type, known: Sequence[str]) -> str:
    """Such as "; did you mean 'num_shards'?", or all known keys if none is near.

    Args:
        cls: the dataclass of the section in which the key stands; its own sections are searched, too. Its
            `KEYS_ELSEWHERE` has a sentence for each key that people bring along from other tools.
    """
    # A letter of another alphabet looks like ours, so that the two keys would be shown alike.
    strange = next((letter for letter in key if not " " < letter < "\x7f"), None)
    named = unicodedata.name(strange, "no name") if strange else ""
    begin = f", in which {strange!r} is U+{ord(strange):04X} ({named})" if strange else ""
    if said := getattr(cls, "KEYS_ELSEWHERE", {}).get(key):
        return f"{begin}; {said}"
    if near := _near(key, known):
        return f"{begin}; did you mean {near!r}?"
    if sections := [name for name, section in _sections(cls) if key in {field.name for field in fields(section)}]:
        return f"{begin}; it belongs in {' or '.join(sections)}."
    return f"{begin}; known are {', '.join(sorted(known))}."


def _near(key: str, known: Sequence[str]) -> str | None:
    """Of the same letters first; then of the same words in another order (`max_words`), or of some of them."""
    plain = key.strip().replace("-", "_").lower()
    for cutoff in (0.85, 0.6):
        if near := difflib.get_close_matches(plain, known, n=1, cutoff=cutoff):
            return near[0]
        in_order = {_in_order(one): one for one in known}
        if near := difflib.get_close_matches(_in_order(plain), in_order, n=1, cutoff=max(cutoff, 0.7)):
            return in_order[near[0]]
    return None


def _in_order(key: str) -> str:
    return "_".join(sorted(key.split("_")))


def _sections(cls: type) -> Iterator[tuple[str, type]]:
    """A class's sections by key, each with its dataclass; those of a mapping or a list have no key of their own."""
    for name, hint in get_type_hints(cls).items():
        yield from ((name, one) for one in (hint, *get_args(hint)) if isinstance(one, type) and is_dataclass(one))
