"""What a training with adapters leaves: peft's own directory that names its base by digest, or both merged.

Merging reads the base's files once more, on rank 0 alone, a weight at a time and in the recipe's precision.
"""

import json
import shutil
from pathlib import Path
from typing import Any

from headrace.adapters.sealed import ADAPTER_CONFIG, Opened, reference_to
from headrace.training.engine import Gang
from headrace.training.export import copy_tokenizer, export_model, trained_weights
from headrace.training.lora_merging import merge_adapters
from headrace.training.run_config import RunConfig


def export_trained(gang: Gang, engine: Any, base: Path, out: Path, config: RunConfig) -> None:
    """Rank 0 writes what the recipe seals: a whole model, or adapters; every rank must call it, and no step follows."""
    if config.recipe.lora:
        _export_adapters(gang, engine, base, out, config)
    else:
        export_model(gang, engine, base, out)


def _export_adapters(gang: Gang, engine: Any, base: Path, out: Path, config: RunConfig) -> None:
    """Adapters, or the merged model."""
    lora = config.recipe.lora
    assert lora
    weights = trained_weights(gang, engine.module)
    if gang.rank != 0:
        return
    adapters = config.work / "adapters" if lora.merge else out
    _write_adapters(engine.module, weights, adapters, base, config.base_weights_digest)
    if not lora.merge:
        return
    from transformers.integrations.deepspeed import unset_hf_deepspeed_config

    # Under stage 3 transformers would divide what it loads among ranks that are not there.
    unset_hf_deepspeed_config()
    merge_adapters(Opened(directory=adapters, base=base), out, dtype=next(iter(engine.module.parameters())).dtype)
    shutil.rmtree(adapters)


def _write_adapters(model: Any, weights: dict[str, Any], out: Path, base: Path, base_digest: str) -> None:
    """A directory of peft's, the same bytes for the same adapters."""
    out.mkdir(parents=True)
    model.save_pretrained(out, state_dict=weights)
    # Of the base, which has it too.
    (out / "generation_config.json").unlink(missing_ok=True)
    path = out / ADAPTER_CONFIG
    body = json.loads(path.read_text())
    body.pop("peft_version", None)
    body |= {"base_model_name_or_path": reference_to(base_digest), "inference_mode": True}
    # From a set, in no order.
    if isinstance(body["target_modules"], list):
        body["target_modules"].sort()
    path.write_text(json.dumps(body, indent=2, sort_keys=True) + "\n")
    copy_tokenizer(base, out)
