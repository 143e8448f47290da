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
    """Args: key: any other than "words" is of other weights, to which no two texts are alike."""

    def __init__(self, key: str = "words", *, num_words_max: int = 1000) -> None:
        self.key, self.num_words_max = key, num_words_max
        self.texts: list[str] = []

    def embed(self, texts: Sequence[str]) -> Embedded:
        self.texts += texts
        is_cut = np.array([len(text.split()) > self.num_words_max for text in texts])
        words = [
            sorted(text.split()[: self.num_words_max]) if self.key == "words" else [self.key + text] for text in texts
        ]
        sums = np.array([np.sum([word_vector(word) for word in of_text], axis=0) for of_text in words])
        return Embedded(vectors=of_length_1(sums, model="words"), is_cut=is_cut)

    def close(self) -> None:
        pass


def embedded(corpus: Corpus, shards: Sequence[CorpusShard], key: str = "words") -> list[CorpusShard]:
    return [replace(one, embeddings=embed_shard(corpus, one, WordEmbedder(key), None).table) for one in shards]
