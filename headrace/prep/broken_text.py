"""Texts that a wrong decoder has spoilt: UTF-8 that was read as Windows-1252 or its like.

A text is broken if a round trip of encodings makes the whole of it better (ftfy), never because it has a suspicious
letter: Portuguese has Ã, Romanian Â, and a text about broken texts quotes them. A text with U+FFFD is broken for good.
"""

from functools import cache
from typing import Any

import polars as pl

LOST = "\ufffd"
# The lead byte of two, three or four bytes of UTF-8, and what else can be such a byte, as a wrong decoder shows them.
_SUSPICIOUS = "[\u00c2-\u00df\u00e0-\u00f4][\u0080-\u00bf\u0152-\u0178\u0192\u02c6\u02dc\u2013-\u2122]"


def broken(texts: pl.Series) -> tuple[pl.Series, pl.Series]:
    """What shows that a text is broken: U+FFFD or else the first characters of a repaired one; null: it is well.

    And each text after repair: what cannot be repaired, and what is well, as it is.
    """
    lost = pl.repeat(None, len(texts), dtype=pl.String, eager=True)
    # ASCII is well, and most texts are of it.
    suspects = (texts.str.len_bytes() != texts.str.len_chars()).arg_true()
    if suspects.is_empty():
        return lost, texts
    lost = lost.scatter(suspects, texts.gather(suspects).str.extract(LOST, 0))
    suspects = suspects.filter(texts.gather(suspects).str.contains(_SUSPICIOUS))
    if suspects.is_empty():
        return lost, texts
    repaired = pl.Series([_repaired(text) for text in texts.gather(suspects)], dtype=pl.String)
    # `scatter` writes into its series.
    better = texts.clone().scatter(suspects, repaired)
    first = pl.when(better != texts).then(texts.str.extract(_SUSPICIOUS, 0))
    return pl.select(pl.coalesce(lost, first)).to_series(), better


def _repaired(text: str) -> str:
    # Loads tables of encodings for 0.1 s; few corpora have a suspect.
    import ftfy

    return ftfy.fix_encoding(text, _settings())


@cache
def _settings() -> Any:
    import ftfy

    # Only what the whole text's round trip proves: a blank after Ã is a blank, not half of an à.
    return ftfy.TextFixerConfig(decode_inconsistent_utf8=False, replace_lossy_sequences=False, restore_byte_a0=False)
