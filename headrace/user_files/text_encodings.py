"""Text encodings of users' files, and the mark of bytes that an encoding does not know."""

import codecs
from itertools import pairwise
from typing import Annotated

from headrace.errors import InvalidInput
from headrace.user_files.shapes import Before

# Undecodable bytes become this lone surrogate, which no valid text contains: one bad line costs one line.
UNDECODABLE = "\udc80"
codecs.register_error("headrace.mark", lambda error: (UNDECODABLE, getattr(error, "end", 0)))


def check_encoding(encoding: str) -> None:
    """Raises: InvalidInput: Python does not know it, it is not for text (`hex`), or it cannot mark damage."""
    try:
        b"a".decode(encoding, "headrace.mark")
    except (LookupError, ValueError) as error:
        raise InvalidInput(f"encoding must be a text encoding that Python knows, got {encoding!r}.") from error


def is_utf8(encodings: tuple[str, ...]) -> bool:
    """Whether UTF-8 is the only one of them; a byte order mark does not matter."""
    return {codecs.lookup(encoding).name for encoding in encodings} <= {"utf-8", "utf-8-sig"}


def _listed(content: object) -> object:
    return (content,) if isinstance(content, str) else content


# In YAML one encoding is its name, without a list.
Encodings = Annotated[tuple[str, ...], Before(_listed, accepts=str)]


def checked_encodings(encodings: tuple[str, ...] | str) -> tuple[str, ...]:
    """The encodings of a corpus or a prompt list, which a file's are tried in.

    Raises:
        InvalidInput: there is none, one is none of text, or one would never be tried.
    """
    encodings = (encodings,) if isinstance(encodings, str) else encodings
    if not encodings:
        raise InvalidInput("encoding must name at least one encoding, got an empty list.")
    for encoding in encodings:
        check_encoding(encoding)
    for encoding, following in pairwise(encodings):
        if _reads_anything(encoding):
            raise InvalidInput(
                f"encoding must have {encoding!r} last, since it reads any file and {following!r} would never be "
                f"tried, got {list(encodings)!r}."
            )
    return encodings


def _reads_anything(encoding: str) -> bool:
    try:
        bytes(range(256)).decode(encoding)
    except ValueError:
        return False
    return True
