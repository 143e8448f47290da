"""Keys under which texts are equal, and the place of a key when a corpus is dealt or split.

Both are the same on every machine and in every version of Python and our libraries: a gloss that moved from train to
held-out after an upgrade would invalidate every earlier held-out loss.
"""

import unicodedata

import polars as pl
import xxhash

# Characters that Unicode's form NFC may change, alone or together with others: marks, parts of Hangul syllables, and
# letters that are spelt in another way; with some that it leaves as they are between them.
_MAY_COMPOSE = (
    r"[\p{M}\u1160-\u11ff\u0374-\u0387\u0958-\u095f\u09dc-\u09df\u0a33-\u0a5e\u0b5c-\u0b5d\u0f43-\u0f69"
    r"\u1f71-\u2001\u2126-\u212b\u2329-\u232a\u2adc\uf900-\ufaff\ufb1d-\ufb4e"
    r"\x{16d63}-\x{16d6a}\x{1d15e}-\x{1d1c0}\x{2f800}-\x{2fa1d}]"
)


def text_key(text: str) -> str:
    """`text` without differences that readers do not see: Unicode form, case and runs of whitespace."""
    return " ".join(unicodedata.normalize("NFC", text).casefold().split())


def composed(texts: pl.Series) -> pl.Series:
    """Unicode's form NFC, at the price of looking for what it may change: the form itself costs 30 ns a byte."""
    beyond_ascii = (texts.str.len_bytes() != texts.str.len_chars()).arg_true()
    places = beyond_ascii.filter(texts.gather(beyond_ascii).str.contains(_MAY_COMPOSE))
    if places.is_empty():
        return texts
    # `scatter` writes into its series.
    return texts.clone().scatter(places, texts.gather(places).str.normalize("NFC"))


def text_keys_of(column: pl.Expr) -> pl.Expr:
    """The same for a column, where a text with indented lines stays as they are: the blanks are part of a program."""
    return column.map_batches(_text_keys, return_dtype=pl.String)


def _text_keys(texts: pl.Series) -> pl.Series:
    # Step by step, since polars would work out a part of an expression wherever it stands. Each slow step gets the
    # texts that it may change, and the others as empty ones.
    text, alike, empty = pl.col("text"), pl.col("alike"), pl.lit("")
    is_indented = pl.col("is indented")
    steps = (
        pl.col("composed").str.to_lowercase().alias("alike"),
        text.str.contains(r"\n[ \t]+\S").alias("is indented"),
        # A single blank becomes itself: not to match it makes this four times as fast as `\s+`.
        pl.when(is_indented).then(empty).otherwise(alike).str.replace_all(r"\s{2,}|[^\S ]", " ").alias("plain"),
        pl.when(is_indented)
        .then(alike.str.strip_chars_end())
        .otherwise(pl.col("plain").str.strip_chars())
        .alias("key"),
    )
    frame = pl.DataFrame({"text": texts, "composed": composed(texts)})
    for step in steps:
        frame = frame.with_columns(step)
    return frame.get_column("key")


def bucket(key: str, num_buckets: int) -> int:
    """Deals keys evenly to `num_buckets`, by the key and the number alone."""
    return xxhash.xxh3_64_intdigest(b"bucket\x00" + key.encode()) % num_buckets


def unit_interval(key: str) -> float:
    """A point in [0, 1) that depends on the key alone; independent of `bucket`, so all shards split alike."""
    return (xxhash.xxh3_64_intdigest(b"split\x00" + key.encode()) >> 11) / (1 << 53)
