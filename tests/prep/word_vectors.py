"""An embedder that knows words alone: texts of the same words, in any order, get the same vector."""

from collections.abc import Sequence
from dataclasses import replace
from functools import cache

import numpy as np
import xxhash

from headrace.engines.embedding import Embedded, of_length_1
from headrace.prep.corpus import Corpus
from headrace.prep.embeddings import embed_shard
from headrace.prep.semantic_settings import SemanticDuplicates
from headrace.prep.verdicts import CorpusShard

DIMENSION = 32
BY_WORDS = SemanticDuplicates(model="words", cosine=0.9)


@cache
def word_vector(word: str) -> np.ndarray:
    return np.random.default_rng(xxhash.xxh3_64_intdigest(word.encode())).standard_normal(DIMENSION)


class WordEmbedder:
    key = "words"

    def __init__(self) -> None:
        self.texts: list[str] = []

    def embed(self, texts: Sequence[str]) -> Embedded:
        self.texts += texts
        sums = np.array([np.sum([word_vector(word) for word in sorted(text.split())], axis=0) for text in texts])
        return Embedded(vectors=of_length_1(sums, model="words"), num_truncated=0)

    def close(self) -> None:
        pass


def embedded(corpus: Corpus, shards: Sequence[CorpusShard]) -> list[CorpusShard]:
    return [replace(one, embeddings=embed_shard(corpus, one, WordEmbedder(), None).table) for one in shards]
