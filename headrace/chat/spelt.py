"""Special tokens in what is sent to a foreign server, which renders and tokenizes by itself.

Whether it keeps them apart from its template's own is its business: most do not. Nothing can be escaped there, as what
escapes a token is not what was written; so a version set lists them, and what spells one is refused.
"""

from collections.abc import Iterable, Sequence


def refusal(texts: Iterable[str], special_tokens: Sequence[str]) -> str | None:
    """Why `texts` are not sent; None: they may be."""
    for text in texts:
        for token in special_tokens:
            if token in text:
                return f"the text spells the special token {token!r}, which the server would take for a turn's mark"
    return None
