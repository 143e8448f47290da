"""What is a near duplicate, how far copies are searched, and in how many runs: the keys `near_duplicates` and `dedup`
of a corpus file."""

import re
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from annotated_types import Ge, Le

from headrace.errors import InvalidInput
from headrace.user_files.ranges import check_ranges
from headrace.user_files.shapes import Before

_SIZE = re.compile(r"(\d+(?:\.\d+)?) ?([kMGT]?B)")
_BYTES = {"B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
# Ranges of keys into which signatures are sorted: a bucket is some of them.
NUM_KEY_RANGES = 64


def num_bytes_of(size: Any) -> Any:
    """`"1 GB"` as a number of bytes; what is no string as it is.

    Raises:
        InvalidInput: a string that is no size.
    """
    if not isinstance(size, str):
        return size
    if not (found := _SIZE.fullmatch(size.strip())):
        raise InvalidInput(f"one_run_below must be a number of bytes, or a size such as 500 MB or 1 GB, got {size!r}.")
    return int(float(found[1]) * _BYTES[found[2]])


@dataclass(frozen=True, kw_only=True)
class NearDuplicates:
    """Two documents are near duplicates if their sets of token sequences overlap by at least `jaccard`."""

    jaccard: Annotated[float, Ge(0.5), Le(1)] = 0.8
    """The overlap from which on two documents are near duplicates."""
    shingle_words: Annotated[int, Ge(1)] = 3
    """The number of tokens in a sequence."""
    num_permutations: Literal[64, 128, 256] = 128
    """128 permutations estimate a Jaccard of 0.8 to within 0.035 (one standard deviation)."""

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.num_permutations not in (64, 128, 256):
            raise InvalidInput(f"num_permutations must be 64, 128 or 256, got {self.num_permutations}.")


@dataclass(frozen=True, kw_only=True)
class Deduplication:
    """Where copies are searched, and how a large corpus is divided for it."""

    over: Literal["corpus", "shard"] = "corpus"
    """`corpus`: copies in any two shards; clean documents wait for all shards. `shard`: within each shard alone."""
    one_run_below: Annotated[int, Ge(0), Before(num_bytes_of, accepts=str)] = 10**9
    """A corpus of fewer bytes, such as 500 MB or 1 GB, is compared by one run; a larger one by document_signatures and
    duplicate_buckets first, one run each."""
    num_buckets: Annotated[int, Ge(1), Le(NUM_KEY_RANGES)] = 16
    """Partitions of duplicate_buckets: runs that look for shared keys at the same time."""

    def __post_init__(self) -> None:
        check_ranges(self)

    @property
    def bucket_keys(self) -> tuple[str, ...]:
        return tuple(f"bucket-{number:02d}" for number in range(self.num_buckets))

    def key_ranges(self, bucket: str) -> range:
        """Those of the `NUM_KEY_RANGES` ranges of keys that a bucket holds."""
        at = self.bucket_keys.index(bucket)
        return range(NUM_KEY_RANGES * at // self.num_buckets, NUM_KEY_RANGES * (at + 1) // self.num_buckets)
