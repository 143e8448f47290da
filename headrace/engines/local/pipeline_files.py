"""What the small files of a pipeline's directory tell of it, without loading diffusers.

For whoever asks before a run does: the same refusals, as far as files go. What a pipeline takes, and which schedulers
fit it, only its code tells.
"""

import json
from pathlib import Path
from typing import Any

from headrace.errors import InvalidInput
from headrace.version_sets.media_settings import Picture
from headrace.version_sets.sets import Member

PIPELINE_INDEX = "model_index.json"
# Lists of a VAE's configuration of which each entry after the first halves width and height.
_HALVING = ("block_out_channels", "encoder_block_out_channels")


def require_pipeline(directory: Path, what: str) -> None:
    """Raises: InvalidInput: the directory is no pipeline's, as far as its index tells.

    Args: what: what it is, for a refusal.
    """
    if not (directory / PIPELINE_INDEX).is_file():
        raise InvalidInput(
            f"{what} must be a pipeline of diffusers, got {directory}, which has no {PIPELINE_INDEX}. Save them with "
            "save_pretrained, or name another engine."
        )


def require_size(pipeline: str, role: str, asked: Picture, multiple: int) -> None:
    """Raises: InvalidInput: it cannot paint a picture of that size.

    Args: pipeline: its class.
    """
    if asked.width % multiple or asked.height % multiple:
        raise InvalidInput(
            f"{pipeline} of {role!r} paints pictures whose width and height are multiples of {multiple} pixels, got "
            f"{asked.width} x {asked.height}."
        )


def check_painter(member: Member, directory: Path | None) -> str:
    """Refuses what opening the pipeline would refuse; returns what is left for that, as a sentence.

    Raises: InvalidInput.
    """
    if directory is None or member.picture is None:
        return ""
    require_pipeline(directory, f"the model of {member.role!r}")
    index = _json(directory / PIPELINE_INDEX)
    name, multiple = str(index.get("_class_name", "the pipeline")), size_multiple(directory, index)
    left = ["its parts load", *(["its scheduler fits them"] if member.picture.scheduler else [])]
    if multiple is None:
        left.append(f"it paints {member.picture.width} x {member.picture.height} pixels")
    else:
        require_size(name, member.role, member.picture, multiple)
    return f"Whether {' and '.join(left)} shows when a run opens {name}."


def size_multiple(directory: Path, index: dict[str, Any]) -> int | None:
    """Of what widths and heights must be multiples, as the loaded pipeline says itself; None: files do not tell."""
    factor = 1
    if _is_part(index, "vae"):
        vae = _json(directory / "vae/config.json")
        halving = next((vae[name] for name in _HALVING if isinstance(vae.get(name), list)), None)
        if not halving:
            return None
        factor = 2 ** (len(halving) - 1)
    patch = _json(directory / "transformer/config.json").get("patch_size", 1) if _is_part(index, "transformer") else 1
    return factor * (patch if isinstance(patch, int) else 1)


def _is_part(index: dict[str, Any], name: str) -> bool:
    """An entry of the index has a library and a class; both are null where the part is left out."""
    entry = index.get(name)
    return isinstance(entry, list) and None not in entry


def _json(file: Path) -> dict[str, Any]:
    """Empty: there is none that can be read; the pipeline's own loader says why."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
