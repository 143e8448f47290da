"""The meaningful request headers: one table to read, refuse and describe them on the OpenAPI page."""

import re
from dataclasses import dataclass, field
from typing import Any

from headrace.serving.gateway.refusals import invalid

_NAME = r"[!-~]{1,256}"
# A version set's id: a digest in hexadecimal.
_ID = r"[0-9a-f]{64}"


@dataclass(frozen=True, kw_only=True)
class NamingHeader:
    """A header that names something. `words` and `pattern`: its allowed values, one of the words or a matching text."""

    name: str
    meaning: str
    takes: str
    words: tuple[str, ...] = ()
    pattern: str = _NAME
    raw: bytes = field(init=False)
    _form: re.Pattern[bytes] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "raw", self.name.lower().encode())
        object.__setattr__(self, "_form", re.compile("|".join([*self.words, self.pattern]).encode()))

    @property
    def schema(self) -> dict[str, Any]:
        """The header's JSON Schema, for the OpenAPI page."""
        form = {"type": "string", "pattern": f"^{self.pattern}$"}
        return {"anyOf": [{"enum": list(self.words)}, form]} if self.words else form

    def read(self, headers: dict[bytes, bytes]) -> str | None:
        """The header's value; None: it is absent.

        Raises:
            Refusal: the value is not allowed, or empty: a client with an empty session name would wonder why it has no
                session.
        """
        raw = headers.get(self.raw)
        if raw is None:
            return None
        if self._form.fullmatch(raw) is None:
            raise invalid(
                f"Header {self.name} must be {self.takes}, got {len(raw)} bytes of something else; leave it out if it "
                "has nothing to say."
            )
        return raw.decode()


SESSION = NamingHeader(
    name="X-Headrace-Session",
    meaning="Turns of one session keep their version set.",
    takes="1 to 256 visible ASCII characters",
)
UNIT = NamingHeader(
    name="X-Headrace-Unit",
    meaning="The unit's name where there is no session; equal names get equal sets.",
    takes="1 to 256 visible ASCII characters",
)
VERSION_SET = NamingHeader(
    name="X-Headrace-Version-Set",
    meaning="The set that the unit wants: `stable`, `candidate` while there is one, or the id of either; 400 if it "
    "cannot have it.",
    takes="`stable`, `candidate`, or a version set's id of 64 hexadecimal digits",
    words=("stable", "candidate"),
    pattern=_ID,
)
NAMING_HEADERS = (SESSION, UNIT, VERSION_SET)

# Headers that a request may have only once: of two, a proxy in front may have looked at the other one.
ONCE = frozenset(
    {
        b"authorization",
        b"content-encoding",
        b"content-length",
        b"content-type",
        b"expect",
        b"host",
        b"transfer-encoding",
        b"x-request-id",
        *(header.raw for header in NAMING_HEADERS),
    }
)


def check_repeated(headers: list[tuple[bytes, bytes]]) -> None:
    """Raises: Refusal: a header that decides something occurs more than once."""
    seen: set[bytes] = set()
    for name, _ in headers:
        if name in seen and name in ONCE:
            raise invalid(f"Header {name.decode()} may be sent once, got it several times.", code="repeated_header")
        seen.add(name)
