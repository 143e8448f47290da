"""Templates in users' files: text with named places, such as `{term}`; checked when the file is loaded.

A template that loads can be filled: a conversion or format that text lacks (`{text:d}`) is refused at loading, not at
the first unit that uses it.
"""

import re
import string
from collections.abc import Collection

from headrace.errors import InvalidInput

# What was meant as a placeholder, and reads as braces around a word.
_DOUBLED = re.compile(r"\{\{\s*(\w+)\s*\}\}")
# A wider placeholder is a slip, and would make gigabytes.
_TOO_WIDE = re.compile(r"\d{5,}")


def placeholders(name: str, template: str, *, texts: tuple[str, ...] | None = None) -> set[str]:
    """A template's placeholders. Only plain names: `{term.__class__}` would reach into objects.

    Args:
        name: the template's name in a refusal.
        texts: the allowed placeholders, all texts; None: columns of any name and type.

    Raises:
        InvalidInput: it is not a template, or has an unknown name or an invalid format.
    """
    try:
        parts = [part[1:] for part in string.Formatter().parse(template) if part[1] is not None]
    except ValueError as error:
        raise InvalidInput(f"{name} is not a template: {error}, got {template!r}.") from error
    found = {str(place) for place, _, _ in parts}
    for place in sorted(found):
        if not place.isidentifier() or (texts is not None and place not in texts):
            wanted = ", ".join(f"{{{one}}}" for one in texts) if texts else "column names"
            raise InvalidInput(f"{name} may use {wanted}, got {{{place}}} in {template!r}.")
    doubled = [word for word in _DOUBLED.findall(template) if word not in found]
    meant = [word for word in doubled if (word in texts if texts is not None else not found)]
    if meant:
        raise InvalidInput(
            f"{name} has {{{{{meant[0]}}}}}, which stands for the word itself in braces: use one pair of braces, "
            f"{{{meant[0]}}}, got {template!r}."
        )
    if any("{" in (spec or "") for _, spec, _ in parts):
        raise InvalidInput(f"{name} may not take a format from another place, got {template!r}.")
    if any(_TOO_WIDE.search(spec or "") for _, spec, _ in parts):
        raise InvalidInput(f"{name} may pad to 9,999 characters at most, got {template!r}.")
    try:
        if texts is not None:
            template.format_map(dict.fromkeys(texts, "text"))
        elif any(conversion not in (None, "r", "s", "a") for _, _, conversion in parts):
            raise ValueError("a conversion is one of !r, !s and !a")
    except (ValueError, TypeError) as error:
        raise InvalidInput(f"{name} cannot be filled with text: {error}, got {template!r}.") from error
    return found


def check_filled(name: str, template: str, *, texts: Collection[str]) -> None:
    """Checks the places that are known to be texts, of a template that also names columns of other types.

    Args: template: of valid placeholders. texts: names of texts.

    Raises: InvalidInput: a place has a format that text lacks (`{text:d}`).
    """
    for _, place, spec, _ in string.Formatter().parse(template):
        try:
            if place in texts:
                format("text", spec or "")
        except ValueError as error:
            raise InvalidInput(f"{name} cannot be filled with text: {error}, got {template!r}.") from error
