"""Adapters added to their base's weights, one weight at a time: neither the base nor the merged model is ever loaded.

Of the model there are names, shapes and the adapters; the base's files are mapped. Each layer with an adapter gets its
weights out of them, is merged by peft, is written and emptied again. So a merge takes about three times the largest
weight beside the adapters, whatever the size of the model, and its files are those of peft's own merge of all of it.
What cannot be done so is loaded whole: adapters with weights of the base's own among them, architectures that have
other names in files than in memory, or that keep some weights in another precision, and bases that are no safetensors.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from headrace.adapters.loading import imported_peft, load_causal_model
from headrace.adapters.sealed import ADAPTER_CONFIG, Opened
from headrace.errors import InvalidInput
from headrace.training.export import copy_beside, held_weights, names_in_files
from headrace.training.model_widths import weight_files
from headrace.training.safetensors_stream import SafetensorsStream

_ADAPTERS = "adapter_model.safetensors"


def merge_adapters(adapters: Opened, out: Path, *, dtype: Any = "auto") -> None:
    """Writes a plain directory of transformers, with the base's tokenizer.

    Args: dtype: "auto": as the base is saved.

    Raises:
        InvalidInput: as `load_causal_model`.
    """
    from transformers.utils import logging

    assert adapters.base
    # Bars of loading and writing nothing: weights go by one at a time.
    logging.disable_progress_bar()
    out.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        base = stack.enter_context(_mapped(weight_files(adapters.base)))
        model = None if _holds_whole_weights(adapters.directory) else _without_weights(adapters.base, base, dtype)
        names = model and _names(model, base)
        if not names:
            load_causal_model(adapters, dtype=dtype, merge=True).save_pretrained(out)
        else:
            _stream(adapters, model, names, base, out)
    copy_beside(adapters.base, out)


def _stream(adapters: Opened, model: Any, names: Mapping[str, Any], base: "_Weights", out: Path) -> None:
    peft = imported_peft()
    num_parameters = sum(parameter.numel() for parameter in model.parameters())
    _fill(model)
    try:
        # In fp32, as `load_causal_model` holds them for a merge.
        on_base: Any = peft.PeftModel.from_pretrained(
            model, str(adapters.directory), torch_device="cpu", autocast_adapter_dtype=True
        )
        layers = _layers(on_base.get_base_model())
        with SafetensorsStream(out, names) as stream:
            for name in stream.names:
                path, _, kind = name.rpartition(".")
                dtype = names[name].dtype
                layer = layers.get(path)
                weight = _merged(layer, path, kind, base, dtype) if layer else base.tensor(name, dtype)
                stream.write(name, weight)
            # Without weights it writes the configs alone.
            model.save_pretrained(out, state_dict={})
            stream.close(num_parameters=num_parameters)
    except (RuntimeError, ValueError, KeyError) as error:
        reason = str(error).strip().splitlines()[0]
        raise InvalidInput(
            f"The adapter in {adapters.directory} cannot be merged into its base in {adapters.base}: {reason}"
        ) from error


def _merged(layer: Any, path: str, kind: str, base: "_Weights", dtype: Any) -> Any:
    """One weight of a layer with an adapter, which is empty before and afterwards."""
    import torch

    inner = layer.get_base_layer()
    empty = dict(inner.named_parameters(recurse=False))
    for own in empty:
        weight = base.tensor(f"{path}.{own}", dtype)
        setattr(inner, own, torch.nn.Parameter(weight, requires_grad=False))
    layer.merge(safe_merge=True)
    merged = getattr(inner, kind).detach()
    for own, parameter in empty.items():
        setattr(inner, own, parameter)
    # It would take the next weights for merged ones.
    layer.merged_adapters.clear()
    return merged


def _layers(model: Any) -> dict[str, Any]:
    """The layers with adapters, by the base's own names."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    return {path: module for path, module in model.named_modules() if isinstance(module, BaseTunerLayer)}


def _holds_whole_weights(directory: Path) -> bool:
    """Whether peft saved layers of the base with the adapter, such as embeddings of new tokens. Unknown is yes."""
    config = json.loads((directory / ADAPTER_CONFIG).read_text())
    with _mapped(path for path in [directory / _ADAPTERS] if path.is_file()) as weights:
        return (
            bool(config.get("modules_to_save") or config.get("trainable_token_indices"))
            or not weights.names
            or any(".base_layer." in name for name in weights.names)
        )


def _without_weights(directory: Path, base: "_Weights", dtype: Any) -> Any:
    """The base's model on no device; None: it holds some weights in another precision than asked for."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig

    config = AutoConfig.from_pretrained(directory, trust_remote_code=False)
    held = dtype if dtype != "auto" else getattr(config, "dtype", None) or base.dtype
    with torch.device("meta"):
        model: Any = AutoModelForCausalLM.from_config(config, dtype=held, trust_remote_code=False)
    if model._keep_in_fp32_modules or model._keep_in_fp32_modules_strict:
        return None
    with suppress(OSError):
        model.generation_config = GenerationConfig.from_pretrained(directory)
    return model


def _fill(model: Any) -> None:
    """Gives each weight one zero, seen at every place: peft puts adapters where their base is, which on no device would
    be nowhere."""
    import torch

    filled: dict[int, Any] = {}
    for module in model.modules():
        for name, empty in module.named_parameters(recurse=False):
            if id(empty) not in filled:
                zero = torch.zeros((), dtype=empty.dtype).expand(empty.shape)
                filled[id(empty)] = torch.nn.Parameter(zero, requires_grad=False)
            setattr(module, name, filled[id(empty)])


def _names(model: Any, base: "_Weights") -> dict[str, Any] | None:
    """What is written, as tensors without content; None: the base's files have other names."""
    described = dict(held_weights(model))
    names = names_in_files(model, described)
    if names is None or not base.names.issuperset(names):
        return None
    return {name: described[name] for name in names}


class _Weights:
    """A directory's safetensors files, mapped."""

    def __init__(self, files: Mapping[str, Any]) -> None:
        """`files`: by the name of each tensor."""
        self._files = files

    @property
    def names(self) -> set[str]:
        return set(self._files)

    @property
    def dtype(self) -> Any:
        """Of the first weight of floating point, as transformers chooses it; None: there is none."""
        for name in self._files:
            tensor = self.tensor(name, None)
            if tensor.is_floating_point():
                return tensor.dtype
        return None

    def tensor(self, name: str, dtype: Any) -> Any:
        tensor = self._files[name].get_tensor(name)
        return tensor.to(dtype) if dtype is not None and tensor.is_floating_point() else tensor


@contextmanager
def _mapped(files: Iterable[Path]) -> Iterator[_Weights]:
    from safetensors import safe_open

    with ExitStack() as stack:
        by_name: dict[str, Any] = {}
        for path in files:
            opened = stack.enter_context(safe_open(path, framework="pt"))
            by_name |= dict.fromkeys(opened.keys(), opened)
        yield _Weights(by_name)
