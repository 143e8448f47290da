"""Authenticates clients by API keys, of which the gateway knows only names and digests.

The file has one `name:sha256hex` a line; `#` starts a comment. Names go into logs and metrics, keys never do. SIGHUP
reads the file again; if it cannot be read, nothing changes.
"""

import hashlib
import hmac
import re
from collections.abc import Iterable
from pathlib import Path

from headrace.errors import InvalidInput
from headrace.serving.gateway.refusals import Refusal

_LINE = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]{0,63}):([0-9a-f]{64})")
ANYBODY = "anybody"


class ApiKeys:
    """Without entries everybody may ask, as `anybody`."""

    def __init__(self, digests: Iterable[tuple[str, str]] = ()) -> None:
        self._digests = tuple(digests)

    @classmethod
    def read(cls, file: Path) -> "ApiKeys":
        """Raises: InvalidInput: the file cannot be read, has no key, or has an invalid line."""
        try:
            lines = file.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidInput(f"API keys file {file} cannot be read: {error}.") from error
        digests: list[tuple[str, str]] = []
        for number, line in enumerate(lines, 1):
            entry = line.split("#", 1)[0].strip()
            if not entry:
                continue
            if (match := _LINE.fullmatch(entry)) is None:
                # The line is not shown: somebody may have written a plain key.
                raise InvalidInput(
                    f"API keys file {file}, line {number}, must be NAME:SHA256 with 64 lower-case hex digits, got "
                    f"{len(entry)} other characters; make one with `printf %s KEY | sha256sum`."
                )
            digests.append((match[1], match[2]))
        if not digests:
            raise InvalidInput(f"API keys file {file} has no key; without the option everybody may ask.")
        names = [name for name, _ in digests]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise InvalidInput(f"API keys file {file} has more than one key for {', '.join(twice)}; use other names.")
        return cls(digests)

    @property
    def num_keys(self) -> int:
        return len(self._digests)

    def name_of(self, authorization: bytes | None) -> str:
        """The name of the key in an `Authorization` header.

        Every entry is compared, each in constant time, so the duration reveals nothing.

        Raises:
            Refusal: 401.
        """
        if not self._digests:
            return ANYBODY
        scheme, _, key = (authorization or b"").strip().partition(b" ")
        if scheme.lower() != b"bearer" or not key.strip():
            raise _unauthorized("You didn't provide an API key; send it as `Authorization: Bearer KEY`.")
        given = hashlib.sha256(key.strip()).hexdigest()
        found = None
        for name, digest in self._digests:
            if hmac.compare_digest(given, digest):
                found = name
        if found is None:
            raise _unauthorized("Incorrect API key provided; ask the service's owner for one.")
        return found


def _unauthorized(message: str) -> Refusal:
    return Refusal(401, message, code="invalid_api_key")
