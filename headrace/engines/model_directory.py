"""Finds a model's files: in a directory, or on the hub."""

from pathlib import Path

from headrace.errors import InvalidInput

# Files that a model of transformers or a pipeline of diffusers needs, also in sub-directories, without copies of the
# weights in other formats.
_FILES = ("*.safetensors", "*.safetensors.index.json", "*.json", "*.model", "*.txt", "*.jinja")
# What each has at its top.
_CONFIGS = ("config.json", "model_index.json")


def local_model_directory(name: str, home: Path | None = None) -> Path | None:
    """The directory that `name` is, relative to `home` if it is not absolute; None: it is none."""
    path = (home or Path()) / Path(name).expanduser()
    try:
        return path if path.is_dir() else None
    except OSError:  # a name that no file can have, a place that may not be looked into
        return None


def model_directory(name: str, *, setting: str, home: Path | None = None) -> Path:
    """`name` if it is a directory; otherwise the hub's files, from its cache if possible.

    Args:
        setting: where a user says another name, for a refusal: "weights of campaign 'x'".
        home: the directory at which relative names start; None: the current one.

    Raises:
        InvalidInput: `name` is neither, it holds no model, or the hub cannot be reached and the cache has no copy.
    """
    if path := local_model_directory(name, home):
        if not any((path / name).is_file() for name in _CONFIGS):
            raise InvalidInput(
                f"{setting} must be a model directory, got {path}, which has no {_CONFIGS[0]} of a model of "
                f"transformers and no {_CONFIGS[1]} of a pipeline of diffusers."
            )
        return path
    if Path(name).expanduser().is_absolute() or name.startswith(".") or name.count("/") > 1:
        raise InvalidInput(
            f"{setting} must be a model directory or a hub name, got {name!r}, which does not exist"
            f"{f' in {home}' if home else ''}. `make demo` makes the demo's model."
        )
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, allow_patterns=list(_FILES)))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise InvalidInput(f"{setting}: {name!r} is no directory and cannot be had from the hub: {reason}") from error
