"""Vectors from a transformer encoder in this process, on a GPU or CPU threads.

The vector of a text is the mean of its tokens' last hidden states, or the first token's where the model's
sentence-transformers files say so; other poolings, further layers and prompts are refused, since vectors without them
would look right and be wrong. Of a text with more tokens than the model reads, the beginning counts.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from headrace.engines.embedding import Embedded, NoVector, of_length_1
from headrace.engines.local.sentence_form import sentence_form
from headrace.errors import EngineUnavailable, InvalidInput

# Tokens of one batch, padding included: 0.4 GB of activations for a model of 12 layers of 768.
_BATCH_TOKENS_MAX = 8192
# Of a tokenizer that knows no limit.
_UNLIMITED = 1_000_000
# Their positions are counted from the padding's id on, and the configuration counts those that are never used.
_OFFSET_POSITIONS = frozenset({"roberta", "xlm-roberta", "camembert", "mpnet"})


@dataclass(frozen=True, kw_only=True)
class _Loaded:
    """`num_tokens_max`: as many as the model reads, special ones included."""

    tokenizer: Any
    model: Any
    device: Any
    num_tokens_max: int


class LocalEmbedder:
    def __init__(self, key: str, directory: Path, *, named: str) -> None:
        """Loads nothing before the first text.

        Raises: InvalidInput: the directory's files say what is not done here.
        """
        self.key, self._directory, self._named = key, directory, named
        self._form = sentence_form(directory)
        self._kept: _Loaded | None = None

    def embed(self, texts: Sequence[str]) -> Embedded:
        """Raises:
        InvalidInput: the directory has no model that is understood, or the model gives no usable vectors.
        EngineUnavailable: there is not enough memory.
        """
        loaded = self._kept = self._kept or _loaded(self._directory, self._named, self._form.num_tokens_max)
        given = [text.lower() for text in texts] if self._form.is_lower_cased else list(texts)
        found = loaded.tokenizer(given, truncation=True, max_length=loaded.num_tokens_max)
        token_ids: list[list[int]] = found["input_ids"]
        lengths = [len(ids) for ids in token_ids]
        if not all(lengths):
            at = lengths.index(0)
            raise NoVector(
                f"The tokenizer of the embedding model {self._named} makes no token of text {at + 1} of {len(texts)}, "
                "so it has no vector. Drop such texts by a rule, or choose another embedding model.",
                text=at,
            )
        # Texts of one length beside each other, so that little is padding.
        order = sorted(range(len(texts)), key=lambda text: (lengths[text], text))
        vectors: np.ndarray | None = None
        while order:
            size = max(1, _BATCH_TOKENS_MAX // lengths[order[-1]])
            some, order = order[-size:], order[:-size]
            pooled = self._pooled(loaded, [token_ids[text] for text in some])
            if vectors is None:
                vectors = np.empty((len(texts), pooled.shape[1]), np.float32)
            vectors[some] = pooled
        assert vectors is not None
        is_cut = np.array([bool(one.overflowing) for one in found.encodings])
        return Embedded(vectors=of_length_1(vectors, model=self._named), is_cut=is_cut)

    def close(self) -> None:
        """Frees the model."""
        self._kept = None

    def _pooled(self, loaded: _Loaded, token_ids: list[list[int]]) -> np.ndarray:
        import torch

        padded = loaded.tokenizer.pad({"input_ids": token_ids}, return_tensors="pt").to(loaded.device)
        mask_BT = padded["attention_mask"]  # noqa: N806
        with torch.inference_mode():
            states_BTH = loaded.model(input_ids=padded["input_ids"], attention_mask=mask_BT).last_hidden_state  # noqa: N806
            if self._form.pooling == "first":
                return states_BTH[:, 0].cpu().numpy()
            weights_BT1 = mask_BT.unsqueeze(-1).float()  # noqa: N806
            return ((states_BTH * weights_BT1).sum(1) / weights_BT1.sum(1)).cpu().numpy()


def _loaded(directory: Path, named: str, num_tokens_max: int | None) -> _Loaded:
    """Weights, in float32, and tokenizer."""
    # A sealed directory is complete: transformers must not ask for more, or wait for it.
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    import torch
    from transformers import AutoModel, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(directory, trust_remote_code=False)
        model: Any = AutoModel.from_pretrained(directory, dtype=torch.float32, trust_remote_code=False)
        model.eval().to(device)
    except (OSError, ValueError, KeyError) as error:
        raise InvalidInput(f"The embedding model {named} cannot be loaded: {error}") from error
    except (MemoryError, torch.OutOfMemoryError) as error:
        raise EngineUnavailable(f"No memory to load the embedding model {named}: {error}", model=named) from error
    tokenizer.padding_side = tokenizer.truncation_side = "right"
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    positions = getattr(model.config, "max_position_embeddings", None)
    if positions and model.config.model_type in _OFFSET_POSITIONS:
        positions -= model.config.pad_token_id + 1
    limits = [num_tokens_max, tokenizer.model_max_length, positions, _UNLIMITED]
    return _Loaded(
        tokenizer=tokenizer,
        model=model,
        device=device,
        num_tokens_max=min(int(one) for one in limits if one),
    )
