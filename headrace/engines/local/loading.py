"""A causal language model of transformers, loaded from a sealed directory with everything that decoding needs."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headrace.adapters.sealed import Opened
from headrace.chat.tokenizer import ChatTokenizer
from headrace.engines.base import Message
from headrace.engines.local.devices import prepared_device
from headrace.engines.messages import messages_for
from headrace.errors import EngineUnavailable, InvalidInput
from headrace.version_sets.sets import EngineSpec, Member

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, kw_only=True)
class LocalModel:
    """`tokenizer` decodes the output; `chat` encodes the input as data prep did.

    `num_positions`: limit of prompt and output together; None: no limit. `mixes_rows`: a row's last bits, or more,
    depend on its neighbours.
    """

    model: Any
    tokenizer: Any
    chat: ChatTokenizer
    device: "torch.device"
    stop_ids: frozenset[int]
    num_positions: int | None
    mixes_rows: bool

    def ids_of(self, messages: Sequence[Message]) -> list[int]:
        """Raises: InvalidInput: the model's chat template refuses these messages."""
        return self.chat.encode_chat([{"role": one.role, "content": one.content} for one in messages])

    def text_of(self, token_ids: Sequence[int]) -> str:
        return self.tokenizer.decode(token_ids, skip_special_tokens=True)


def load(directory: Path, member: Member, spec: EngineSpec, base: Path | None = None) -> LocalModel:
    """Loads weights and tokenizer; seconds to minutes.

    Args: base: the base's directory, of weights that are an adapter.

    Raises:
        InvalidInput: the directory has no causal language model with a usable chat template, or an adapter does not fit
            its base.
        EngineUnavailable: there is not enough memory.
    """
    # A sealed directory is complete: transformers must not ask a hub, or wait for one.
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    import torch
    from transformers import AutoTokenizer
    from transformers.utils import logging

    from headrace.adapters.loading import load_causal_model

    logging.disable_progress_bar()
    opened = Opened(directory=directory, base=base)
    device = prepared_device(spec.num_threads)
    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(opened.model, trust_remote_code=False)
        model = load_causal_model(opened, dtype=getattr(torch, spec.dtype), merge=spec.merge_adapter)
        model.eval().to(device)
        if device.type == "cpu":
            lay_for_few_rows(model)
    except (OSError, ValueError, KeyError) as error:
        raise InvalidInput(f"Weights {member.weights_digest[:12]} in {directory} cannot be loaded: {error}") from error
    except (MemoryError, torch.OutOfMemoryError) as error:
        raise EngineUnavailable(
            f"No memory to load {member.model_name} {member.model_version}: {error}",
            model=f"{member.model_name}:{member.model_version}",
        ) from error
    loaded = LocalModel(
        model=model,
        tokenizer=tokenizer,
        chat=ChatTokenizer(opened.model, date=spec.template_date),
        device=device,
        stop_ids=_stop_ids(tokenizer, model),
        num_positions=int(getattr(model.config, "max_position_embeddings", 0)) or None,
        mixes_rows=mixes_rows(model.config),
    )
    # A template that needs a missing date refuses every turn: fail now, not at each row.
    loaded.ids_of(messages_for(member, [Message(role="user", content="a")]))
    return loaded


def lay_for_few_rows(model: Any) -> None:
    """Lays the matrices of fp32 layers down by columns: the same numbers, read once a product in place of three times.

    With a token a row, a product is as fast as its matrix is read. MKL first copies one that lies by rows, which is how
    files have them, into a form of its own; so a step of 14 rows took 1.8 times as long.
    """
    import torch

    laid: dict[int, torch.Tensor] = {}
    for layer in model.modules():
        if not isinstance(layer, torch.nn.Linear) or layer.weight.dtype != torch.float32:
            continue
        weight = layer.weight
        # Tied to the embedding, or to another layer: one copy for all of them.
        if id(weight) not in laid:
            laid[id(weight)] = weight
            weight.data = weight.data.t().contiguous().t()
    if laid:
        # As long as a single tensor lies in the mapped file, all of it stays in memory, what was laid down anew too.
        for rest in (*model.parameters(), *model.buffers()):
            if id(rest) not in laid:
                rest.data = rest.data.clone()


def mixes_rows(config: Any) -> bool:
    """Whether frequencies of positions follow the longest row, or tokens of all rows share their experts' matrices."""
    named = config.get_text_config().to_dict()
    rope = named.get("rope_parameters") or {}
    # One for the model, or one for each kind of layer.
    kinds = [rope.get("rope_type"), *(one.get("rope_type") for one in rope.values() if isinstance(one, dict))]
    experts = [value for name, value in named.items() if re.fullmatch(r"(num|n)_(\w+_)?experts", name)]
    return not {"dynamic", "longrope"}.isdisjoint(kinds) or any(type(value) is int and value > 1 for value in experts)


def _stop_ids(tokenizer: Any, model: Any) -> frozenset[int]:
    """End tokens of both tokenizer and model: for chat models each list is often incomplete."""
    found = {tokenizer.eos_token_id}
    configured = getattr(model.generation_config, "eos_token_id", None)
    found.update(configured if isinstance(configured, list) else [configured])
    stop_ids = frozenset(int(token) for token in found if token is not None)
    if not stop_ids:
        raise InvalidInput("Neither tokenizer nor model names an end token; set eos_token in tokenizer_config.json.")
    return stop_ids
