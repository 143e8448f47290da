"""Which documents train the model and which measure it.

The side is a stable hash of the term, so every document of a term is on one side, in any shard and after any number of
new documents. A document without a term is split by its text. Knows nothing of synonyms: two terms that mean the same
may fall on two sides; their texts may not be equal, which de-duplication and the check `no_leak` see to.
"""

from typing import Literal

from headrace.prep.text_keys import text_key, unit_interval

Split = Literal["train", "heldout"]


def is_heldout(key: str, heldout_share: float) -> bool:
    """Whether a term is among the held-out ones; a larger share holds out the same terms and more."""
    return unit_interval(text_key(key)) < heldout_share


def split_of(term: str | None, text: str, heldout_share: float) -> Split:
    return "heldout" if is_heldout(text if term is None else term, heldout_share) else "train"
