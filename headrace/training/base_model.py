"""Finds a base model's files: in a directory, or on the hub."""

from pathlib import Path

from headrace.errors import InvalidTrainingRun

# Files that a causal language model of transformers needs, without copies of the weights in other formats.
_FILES = ("*.safetensors", "*.safetensors.index.json", "*.json", "*.model", "*.txt", "*.jinja")


def model_directory(name: str) -> Path:
    """`name` if it is a directory; otherwise the hub's files, from its cache if possible.

    Raises:
        InvalidTrainingRun: `name` is neither, or the hub cannot be reached and the cache has no copy.
    """
    path = Path(name)
    if path.is_dir():
        return path
    if path.is_absolute() or name.startswith("."):
        raise InvalidTrainingRun(
            f"Base model {name} does not exist. `make demo` makes the demo's; else set base_model in the recipe, or "
            "HEADRACE_BASE_MODEL, to a model directory or a hub name."
        )
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, allow_patterns=list(_FILES)))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise InvalidTrainingRun(
            f"Base model {name!r} is no directory and cannot be had from the hub: {reason}"
        ) from error
