"""Vectors from a transformer encoder in this process, on a GPU or CPU threads.

The vector of a text is the mean of its tokens' last hidden states, or the first token's where the model's
sentence-transformers files say so; other poolings, further layers and prompts are refused, since vectors without them
would look right and be wrong. Of a text with more tokens than the model reads, the beginning counts.
"""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from headrace.engines.embedding import Embedded, of_length_1
from headrace.errors import EngineUnavailable, InvalidInput

# Tokens of one batch, padding included: 0.4 GB of activations for a model of 12 layers of 768.
_BATCH_TOKENS_MAX = 8192
# Of a tokenizer that knows no limit.
_UNLIMITED = 1_000_000
# Their positions are counted from the padding's id on, and the configuration counts those that are never used.
_OFFSET_POSITIONS = frozenset({"roberta", "xlm-roberta", "camembert", "mpnet"})
_POOLINGS = {"mean": "mean", "mean_tokens": "mean", "cls": "first", "cls_token": "first"}


@dataclass(frozen=True, kw_only=True)
class SentenceForm:
    """What a directory's sentence-transformers files say; as for a model without them."""

    pooling: Literal["mean", "first"] = "mean"
    num_tokens_max: int | None = None
    is_lower_cased: bool = False


def sentence_form(directory: Path) -> SentenceForm:
    """Raises: InvalidInput: the files say what this engine does not do."""
    modules = _json(directory / "modules.json") or []
    kinds = {one["type"].rpartition(".")[2]: directory / one.get("path", "") for one in modules}
    if others := sorted(kinds.keys() - {"Transformer", "Pooling", "Normalize"}):
        raise InvalidInput(
            f"The embedding model in {directory} has a module {others[0]!r}, where only Transformer, Pooling and "
            "Normalize are understood. Serve it by a server, with engine: openai_http."
        )
    settings = _json(directory / "config_sentence_transformers.json") or {}
    if prompt := settings.get("default_prompt_name"):
        raise InvalidInput(
            f"The embedding model in {directory} puts its prompt {prompt!r} before each text, which is not done here. "
            "Serve it by a server, with engine: openai_http."
        )
    transformer = _json(kinds.get("Transformer", directory) / "sentence_bert_config.json") or {}
    pooling = (
        _json(kinds["Pooling"] / "config.json") if "Pooling" in kinds else _json(directory / "1_Pooling/config.json")
    )
    return SentenceForm(
        pooling=_pooling(pooling, directory) if pooling else "mean",
        num_tokens_max=transformer.get("max_seq_length"),
        is_lower_cased=bool(transformer.get("do_lower_case")),
    )


def _pooling(settings: dict[str, Any], directory: Path) -> Literal["mean", "first"]:
    named = settings.get("pooling_mode")
    modes = [named] if isinstance(named, str) else list(named or ())
    modes += [
        key.removeprefix("pooling_mode_")
        for key, is_on in settings.items()
        if key.startswith("pooling_mode_") and is_on
    ]
    found = {_POOLINGS.get(mode) for mode in modes}
    if found == {"mean"}:
        return "mean"
    if found == {"first"}:
        return "first"
    raise InvalidInput(
        f"The embedding model in {directory} pools its tokens by {' and '.join(sorted(map(str, modes))) or 'nothing'}, "
        "where the mean of all or the first token are understood. Serve it by a server, with engine: openai_http."
    )


def _json(path: Path) -> Any:
    """None: there is no such file."""
    if not path.is_file():
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InvalidInput(f"{path} of the embedding model is no JSON: {error}.") from error


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
        # Texts of one length beside each other, so that little is padding.
        order = sorted(range(len(texts)), key=lambda text: (lengths[text], text))
        vectors: np.ndarray | None = None
        while order:
            size = max(1, _BATCH_TOKENS_MAX // max(1, lengths[order[-1]]))
            some, order = order[-size:], order[:-size]
            pooled = self._pooled(loaded, [token_ids[text] for text in some])
            if vectors is None:
                vectors = np.empty((len(texts), pooled.shape[1]), np.float32)
            vectors[some] = pooled
        assert vectors is not None
        num_truncated = sum(bool(one.overflowing) for one in found.encodings)
        return Embedded(vectors=of_length_1(vectors, model=self._named), num_truncated=num_truncated)

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
