"""Under which keys texts are equal, and where a key falls when a corpus is dealt or split.

Both answers are the same on every machine, in every version of Python and of our libraries: a gloss that moved from
train to held-out after an upgrade would spoil every held-out loss that was measured before.
"""

import unicodedata

import xxhash


def text_key(text: str) -> str:
    """`text` without what readers do not see as a difference: Unicode form, case and runs of whitespace."""
    return " ".join(unicodedata.normalize("NFC", text).casefold().split())


def bucket(key: str, num_buckets: int) -> int:
    """Deals keys evenly to `num_buckets`; which one depends on the key and the number alone."""
    return xxhash.xxh3_64_intdigest(b"bucket\x00" + key.encode()) % num_buckets


def unit_interval(key: str) -> float:
    """A point in [0, 1) that depends on the key alone; independent of `bucket`, so shards split alike."""
    return (xxhash.xxh3_64_intdigest(b"split\x00" + key.encode()) >> 11) / (1 << 53)
