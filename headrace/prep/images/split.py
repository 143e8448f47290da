"""Decides which pictures train a model and which measure it, by what they show and say.

Pictures that look alike are on one side always, whether or not one of them was dropped as a copy. By caption, those
with equal captions are on one side too, and what is held out are captions that training never sees; then a corpus with
few captions, such as names of classes, has a coarse split. Sides are by a stable hash, so they are the same in every
run; a new picture that is like two others, of two sides, brings these together, and one of them changes its side.
"""

import numpy as np
import polars as pl

from headrace.prep.images.corpus import ImageCorpus, ImageDuplicates
from headrace.prep.images.duplicates import first_with_same, look_alikes
from headrace.prep.split import is_heldout


def sides(pictures: pl.DataFrame, corpus: ImageCorpus) -> pl.Series:
    """`train` or `heldout` of each of the kept pictures.

    Args:
        pictures: `best_first`, with `caption_key`.
    """
    # Its import costs 0.1 s, which code that only opens a corpus should not pay.
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    num = pictures.height
    joined = [look_alikes(pictures, corpus.duplicates or ImageDuplicates())]
    if corpus.split_by == "caption":
        joined.append(first_with_same(pictures, ["caption_key"]).to_numpy())
    starts, ends = np.tile(np.arange(num), len(joined)), np.concatenate(joined)
    links = coo_array((np.ones(len(ends), np.int8), (starts, ends)), shape=(num, num))
    _, group = connected_components(links, directed=False)
    key = pl.col("caption_key") if corpus.split_by == "caption" else pl.col("pixels").bin.encode("hex")
    keyed = pictures.select(key.min().over(pl.Series(group)).alias("key")).to_series()
    held_out = {one: is_heldout(one, corpus.heldout_share) for one in keyed.unique()}
    return pl.Series(["heldout" if held_out[one] else "train" for one in keyed], dtype=pl.String)
