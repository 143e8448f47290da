"""Models that turn texts into vectors: in this process, or behind a server that speaks OpenAI's protocol.

A vector has length 1, so the cosine of two is their product. Vectors of two models, or of two versions of one, say
nothing of each other: `key` tells which ones may be compared.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import numpy as np

from headrace.engines.deployment import Deployment
from headrace.engines.model_directory import model_directory
from headrace.errors import InvalidInput
from headrace.keys import digest_text
from headrace.store.objects import ObjectStore
from headrace.store.sealed_directory import open_directory, seal_directory

EmbeddingEngine = Literal["transformers", "openai_http"]
# Raise it when the same model gives other vectors, or other texts have one.
_CODE_VERSION = "2"


@dataclass(frozen=True, kw_only=True)
class Embedded:
    """`vectors`: float32 [text, dimension]. `is_cut`: bool [text], of which the model saw the beginning alone."""

    vectors: np.ndarray
    is_cut: np.ndarray


@dataclass(frozen=True, kw_only=True)
class EmbeddingModel:
    """`model`: a directory, which is sealed so that its bytes are known; or the name that the server at `base_url`
    has for its model. `characters_max`: longer texts are cut before the server gets them; None: none is."""

    engine: EmbeddingEngine
    model: str
    base_url: str | None = None
    characters_max: int | None = None


class NoVector(InvalidInput):
    """`text`: the place, among those that were given, of the one that has none."""

    def __init__(self, message: str, *, text: int) -> None:
        super().__init__(message)
        self.text = text


class Embedder(Protocol):
    """A loaded model. `key`: a digest of all that decides a text's vector."""

    key: str

    def embed(self, texts: Sequence[str]) -> Embedded:
        """One vector for each text, of which there is at least one.

        Raises:
            NoVector: the model makes nothing of a text.
            InvalidInput: the model gives no usable vectors, or the server refuses the texts.
            EngineBusy, EngineFailed: the server cannot answer now, or answers wrongly at every attempt.
        """
        ...

    def close(self) -> None: ...


def open_embedder(wanted: EmbeddingModel, home: Path, objects: ObjectStore, deployment: Deployment) -> Embedder:
    """Loads nothing before the first text. Args: home: where a relative directory starts.

    Raises:
        InvalidInput: the directory has no embedding model that is understood.
    """
    if wanted.engine == "openai_http":
        from headrace.engines.openai.embedder import EmbeddingClient, ServerEmbedder

        assert wanted.base_url
        key = digest_text("embedding", _CODE_VERSION, wanted.base_url, wanted.model, str(wanted.characters_max))
        servers = deployment.servers(wanted.base_url)
        client = EmbeddingClient(model=wanted.model, base_urls=servers, deployment=deployment)
        return ServerEmbedder(key, client, characters_max=wanted.characters_max)
    from headrace.engines.local.embedder import LocalEmbedder

    directory = model_directory(wanted.model, setting="model of semantic_duplicates", home=home)
    digest = seal_directory(objects, directory).digest
    key = digest_text("embedding", _CODE_VERSION, digest)
    return LocalEmbedder(key, open_directory(objects, digest), named=wanted.model)


def of_length_1(vectors: np.ndarray, *, model: str) -> np.ndarray:
    """Float32 [text, dimension].

    Raises: NoVector: a vector has no direction.
    """
    wide = vectors.astype(np.float64)
    largest = np.abs(wide).max(axis=1, keepdims=True, initial=0.0)
    if (has_none := ~(np.isfinite(largest) & (largest > 0))).any():
        at = int(np.flatnonzero(has_none)[0])
        raise NoVector(
            f"Model {model} gives text {at + 1} of {len(vectors)} a vector whose largest number is {largest[at, 0]:g}, "
            "which has no direction. Choose another embedding model.",
            text=at,
        )
    # Squares of numbers far from 1 would overflow, or be lost. By a power of two no vector changes its last bits.
    wide = np.ldexp(wide, -np.frexp(largest)[1])
    return (wide / np.linalg.norm(wide, axis=1, keepdims=True)).astype(np.float32)
