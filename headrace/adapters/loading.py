"""Opens a causal language model: whole weights, or an adapter on its base. Imports transformers when it is called.

An adapter runs beside its base's layers, or is added to their weights when it is loaded (`merge`). Merged, a token
costs what the base's does; the sums are others in their last bits.
"""

from typing import Any

from headrace.adapters.sealed import Opened
from headrace.errors import InvalidInput


def load_causal_model(opened: Opened, *, dtype: Any, merge: bool = False) -> Any:
    """A model of transformers' own class, in `dtype` ("auto": as the base was saved), on the CPU.

    Args:
        merge: whether an adapter is added to the base's weights; of whole weights nothing.

    Raises:
        InvalidInput: peft is missing, or the adapter does not fit its base, or cannot be merged.
        OSError, ValueError, KeyError: transformers cannot load the directory.
    """
    import torch
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(opened.model, dtype=dtype, trust_remote_code=False)
    if opened.base is None:
        return model
    peft = imported_peft()
    try:
        on_base: Any = peft.PeftModel.from_pretrained(
            model,
            str(opened.directory),
            torch_device="cpu",
            # Sums of a merge keep what the adapter's file holds; beside its base an adapter computes in its precision.
            autocast_adapter_dtype=merge,
        )
        if not merge:
            # Of transformers' own class still: peft's layers stand in place of the base's.
            return on_base.get_base_model()
        return on_base.merge_and_unload(safe_merge=True)
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, ValueError, KeyError) as error:
        reason = str(error).strip().splitlines()[0]
        raise InvalidInput(
            f"The adapter in {opened.directory} cannot be {'merged into' if merge else 'laid on'} its base in "
            f"{opened.base}: {reason}"
        ) from error


def imported_peft() -> Any:
    """Raises: InvalidInput: it is not installed."""
    try:
        import peft
    except ModuleNotFoundError as error:
        raise InvalidInput(
            f"An adapter needs {error.name}, which is not installed. Run pip install 'headrace[train]'."
        ) from error
    return peft
