"""Keys under which texts are equal, and the place of a key when a corpus is dealt or split.

Both are the same on every machine and in every version of Python and our libraries: a gloss that moved from train to
held-out after an upgrade would invalidate every earlier held-out loss.
"""

import unicodedata
from functools import cache

import numpy as np
import polars as pl
import xxhash

# Characters that Unicode's form NFC may change, alone or together with others: marks, parts of Hangul syllables, and
# letters that are spelt in another way; with some that it leaves as they are between them.
_MAY_COMPOSE = (
    r"[\p{M}\u1160-\u11ff\u0374-\u0387\u0958-\u095f\u09dc-\u09df\u0a33-\u0a5e\u0b5c-\u0b5d\u0f43-\u0f69"
    r"\u1f71-\u2001\u2126-\u212b\u2329-\u232a\u2adc\uf900-\ufaff\ufb1d-\ufb4e"
    r"\x{16d63}-\x{16d6a}\x{1d15e}-\x{1d1c0}\x{2f800}-\x{2fa1d}]"
)

# Characters that folding and lower case make different things of, alone or at the end of a word (sigma): ligatures,
# sharp s, Greek with the iota below, Cherokee; and letters that Unicode has had for a short time only.
_MAY_FOLD = (
    r"[\u00b5\u00df\u0149\u017f\u01f0\u0345\u0390\u03a3\u03b0\u03c2\u03d0-\u03d6\u03f0-\u03f5\u0587\u13a0-\u13fd"
    r"\u1c80-\u1c8a\u1e96-\u1e9e\u1f50-\u1ffc\ua7cb-\ua7dc\uab70-\uabbf\ufb00-\ufb17"
    r"\x{10d50}-\x{10d65}\x{16ea0}-\x{16eb8}]"
)
# Of these some make an ASCII text of theirs.
_MAY_FOLD_TO_ASCII = "\u00df\u017f\u1e9e\u212a\ufb00-\ufb06"
# Beyond the last letter that has a case: to look at all of Unicode's characters takes each process 1.4 s.
_CASED_END = 0x1E944
# What Python splits at. Rust's `\s` lacks four separators.
_BLANKS = "".join(one for one in map(chr, range(0x3001)) if one.isspace())
_NOT_ALIKE = rf"[{_BLANKS}]{{2,}}|[{_BLANKS.replace(' ', '')}]"


def text_key(text: str) -> str:
    """`text` without differences that readers do not see: Unicode form, case and runs of whitespace."""
    return " ".join(unicodedata.normalize("NFC", text).casefold().split())


def composed(texts: pl.Series) -> pl.Series:
    """Unicode's form NFC, at the price of looking for what it may change: the form itself costs 30 ns a byte."""
    places = _places_of(texts, _MAY_COMPOSE)
    if places.is_empty():
        return texts
    # `scatter` writes into its series.
    return texts.clone().scatter(places, texts.gather(places).str.normalize("NFC"))


def text_keys_of(column: pl.Expr) -> pl.Expr:
    """`text_key` of each, but for the blanks of a text with indented lines, which are part of a program."""
    return column.map_batches(_text_keys, return_dtype=pl.String)


def keys_in_ascii(texts: pl.Series) -> tuple[np.ndarray, pl.Series]:
    """Places of texts beyond ASCII whose keys are those of texts in ASCII, and these keys: of "Straße", "strasse"."""
    places = _places_of(texts, rf"\A[\x00-\x7f{_BLANKS}{_MAY_FOLD_TO_ASCII}]*\z")
    return places.to_numpy(), _text_keys(texts.gather(places))


def _folded(texts: pl.Series) -> pl.Series:
    """As Python's `casefold`: in lower case, but for texts in which the two may differ."""
    lowered, places = texts.str.to_lowercase(), _places_of(texts, _MAY_FOLD)
    if places.is_empty():
        return lowered
    folds = _folds()
    return lowered.scatter(places, texts.gather(places).str.replace_many(list(folds), list(folds.values())))


@cache
def _folds() -> dict[str, str]:
    """Character → what folding makes of it, wherever it stands."""
    characters = (chr(code) for code in range(_CASED_END) if not 0xD800 <= code < 0xE000)
    return {one: folded for one in characters if (folded := one.casefold()) != one}


def _places_of(texts: pl.Series, pattern: str) -> pl.Series:
    """Of texts beyond ASCII, those in which the pattern is found."""
    beyond_ascii = (texts.str.len_bytes() != texts.str.len_chars()).arg_true()
    return beyond_ascii.filter(texts.gather(beyond_ascii).str.contains(pattern))


def _text_keys(texts: pl.Series) -> pl.Series:
    # Step by step, since polars would work out a part of an expression wherever it stands. Each slow step gets the
    # texts that it may change, and the others as empty ones.
    text, alike, empty = pl.col("text"), pl.col("alike"), pl.lit("")
    is_indented = pl.col("is indented")
    steps = (
        pl.col("composed").map_batches(_folded, return_dtype=pl.String).alias("alike"),
        text.str.contains(rf"\n[ \t]+[^{_BLANKS}]").alias("is indented"),
        # A single blank becomes itself: not to match it makes this four times as fast as `\s+`.
        pl.when(is_indented).then(empty).otherwise(alike).str.replace_all(_NOT_ALIKE, " ").alias("plain"),
        pl.when(is_indented)
        .then(alike.str.strip_chars_end(_BLANKS))
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
