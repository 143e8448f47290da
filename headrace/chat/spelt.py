"""Refuses special tokens in text for a foreign server, which renders and tokenizes by itself.

Most servers do not separate them from their template's own. They cannot be escaped either, since the escaped text would
differ from the written one. So a version set lists them, and a text that contains one is refused.
"""

from collections.abc import Iterable, Sequence


def refusal(texts: Iterable[str], special_tokens: Sequence[str]) -> str | None:
    """Why `texts` may not be sent; None: they may."""
    for text in texts:
        for token in special_tokens:
            if token in text:
                return f"the text spells the special token {token!r}, which the server would take for a turn's mark"
    return None
