"""Keeps secrets out of everything that leaves this process: errors, rows, logs, records, metadata.

One filter gets its secrets where they enter (a key, a URL's user), and is applied where foreign text enters, so code
that builds an error or a row later need not care. It finds a secret in plain form, in a URL's, JSON's or Base64's
spelling. It misses a secret that was cut, reversed or split over several lines.
"""

import base64
import json
import re
from collections.abc import Iterable
from urllib.parse import quote, unquote, urlsplit, urlunsplit

MASK = "***"
# A shorter key is an ordinary word: servers that need none get "EMPTY" or "ollama", which models write too. It is
# masked in errors, but not in a model's text.
_WRITTEN_CHARACTERS_MIN = 12
_SECRET_FIELD = re.compile(r"(?i)(pass|pwd|token|key|secret|sig|credential)")


class Mask:
    """Replaces secrets by `***`. Without secrets it changes nothing."""

    def __init__(self, secrets: Iterable[str | None] = ()) -> None:
        self._secrets = tuple(secret for secret in secrets if secret)
        forms = {form for secret in self._secrets for form in _spellings(secret)}
        # The longest first, since one secret may be part of another.
        self._forms = tuple(sorted(forms, key=len, reverse=True))

    @property
    def of_written(self) -> "Mask":
        """The mask for a model's text: secrets in plain form, without short ones, which may be ordinary words."""
        mask = Mask()
        long = {secret for secret in self._secrets if len(secret) >= _WRITTEN_CHARACTERS_MIN}
        mask._forms = tuple(sorted(long, key=len, reverse=True))
        return mask

    @property
    def is_empty(self) -> bool:
        return not self._forms

    def __call__(self, text: str) -> str:
        for form in self._forms:
            text = text.replace(form, MASK)
        return text

    def num_open(self, text: str) -> int:
        """How many characters at the text's end may begin a secret."""
        return max((_overlap(text, form) for form in self._forms), default=0)


class MaskedPieces:
    """A mask over a text that comes in pieces: holds back the end while it may begin a secret."""

    def __init__(self, mask: Mask) -> None:
        self._mask = mask
        self._kept = ""

    def feed(self, text: str) -> str:
        if self._mask.is_empty:
            return text
        text = self._mask(self._kept + text)
        num_kept = self._mask.num_open(text)
        self._kept = text[len(text) - num_kept :]
        return text[: len(text) - num_kept]

    def rest(self) -> str:
        kept, self._kept = self._kept, ""
        return kept


def without_credentials(url: str) -> str:
    """A URL for people: without user, password, and values of query fields that name a secret."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "a URL that cannot be read"
    fields = [field.partition("=") for field in parts.query.split("&")] if parts.query else []
    query = "&".join(
        f"{name}={MASK}" if equals and _SECRET_FIELD.search(name) else name + equals + value
        for name, equals, value in fields
    )
    if not parts.netloc.rpartition("@")[1] and query == parts.query:
        return url
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2], query=query))


def secrets_in(url: str) -> list[str]:
    """The secrets in a URL: its password, or its user if there is no password; secret fields."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return []
    user, has_password, password = parts.netloc.rpartition("@")[0].partition(":")
    found = [password, base64.b64encode(f"{unquote(user)}:{unquote(password)}".encode()).decode()] if password else []
    if user and not has_password:
        found.append(user)
    for field in parts.query.split("&"):
        name, _, value = field.partition("=")
        if value and _SECRET_FIELD.search(name):
            found.append(value)
    return [*found, *(unquote(each) for each in found if unquote(each) != each)]


def _spellings(secret: str) -> set[str]:
    return {
        secret,
        quote(secret, safe=""),
        json.dumps(secret)[1:-1],
        base64.b64encode(secret.encode(errors="replace")).decode().rstrip("="),
    }


def _overlap(text: str, form: str) -> int:
    for length in range(min(len(form) - 1, len(text)), 0, -1):
        if text.endswith(form[:length]):
            return length
    return 0
