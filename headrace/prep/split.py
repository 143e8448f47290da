"""Decides which documents train the model and which measure it.

A stable hash of the term decides, so all documents of a term are on one side, in any shard and after any number of new
documents. A document without a term is split by its text. Knows nothing of synonyms: terms of equal meaning may fall on
two sides. De-duplication and the check `no_leak` keep equal texts from doing so.
"""

from typing import Literal

from headrace.prep.text_keys import text_key, unit_interval

Split = Literal["train", "heldout"]


def is_heldout(key: str, heldout_share: float) -> bool:
    """Whether a term is held out; a larger share holds out the same terms and more."""
    return unit_interval(text_key(key)) < heldout_share


def split_of(term: str | None, text: str, heldout_share: float) -> Split:
    return "heldout" if is_heldout(text if term is None else term, heldout_share) else "train"
