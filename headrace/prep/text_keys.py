"""Keys under which texts are equal, and the place of a key when a corpus is dealt or split.

Both are the same on every machine and in every version of Python and our libraries: a gloss that moved from train to
held-out after an upgrade would invalidate every earlier held-out loss.
"""

import unicodedata

import polars as pl
import xxhash


def text_key(text: str) -> str:
    """`text` without differences that readers do not see: Unicode form, case and runs of whitespace."""
    return " ".join(unicodedata.normalize("NFC", text).casefold().split())


def text_keys_of(column: pl.Expr) -> pl.Expr:
    """The same for a column, where a text with indented lines stays as they are: the blanks are part of a program."""
    alike = column.str.normalize("NFC").str.to_lowercase()
    plain = alike.str.replace_all(r"\s+", " ").str.strip_chars()
    return pl.when(column.str.contains(r"\n[ \t]+\S")).then(alike.str.strip_chars_end()).otherwise(plain)


def bucket(key: str, num_buckets: int) -> int:
    """Deals keys evenly to `num_buckets`, by the key and the number alone."""
    return xxhash.xxh3_64_intdigest(b"bucket\x00" + key.encode()) % num_buckets


def unit_interval(key: str) -> float:
    """A point in [0, 1) that depends on the key alone; independent of `bucket`, so all shards split alike."""
    return (xxhash.xxh3_64_intdigest(b"split\x00" + key.encode()) >> 11) / (1 << 53)
