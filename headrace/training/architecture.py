"""Checks before any process starts, by config.json alone, whether a model directory can be trained.

Loads no weights; imports transformers, which takes some seconds. transformers chooses the attention implementation:
sdpa if the architecture supports it, its own code otherwise. Code that comes with a model is never run.
"""

from pathlib import Path
from typing import Any

from headrace.errors import InvalidTrainingRun


def check_architecture(directory: Path) -> str:
    """The class to train, such as `LlamaForCausalLM`.

    Raises:
        InvalidTrainingRun: transformers has no causal language model for this configuration, or has one only in code
            that comes with the model.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    try:
        config = AutoConfig.from_pretrained(directory, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).strip().splitlines()[0]
        raise InvalidTrainingRun(
            f"Base model {directory} has a config.json that transformers does not know: {reason} Code that comes with "
            "a model is never run: take an architecture of transformers' own."
        ) from error
    mapping = AutoModelForCausalLM._model_mapping
    if type(config) not in mapping:
        raise InvalidTrainingRun(
            f"Base model {directory} is a {config.model_type!r}, of which transformers has no causal language model; "
            "wanted one that AutoModelForCausalLM loads."
        )
    found: Any = mapping[type(config)]
    return (found[0] if isinstance(found, (tuple, list)) else found).__name__
