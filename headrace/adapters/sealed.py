"""What a sealed adapter is: files of peft that name their base by its digest. Imports no library of models.

An adapter is sealed like any weights and known by one digest, which covers its base's: `adapter_config.json` names the
base as `headrace://weights/<digest>`. So a version set, MLflow, a journal and an evaluation name it as they name whole
weights, and nothing can lay it on another base. The directory is a plain one of peft's, with the base's tokenizer
beside.

The sealing repeats the base's digest as an attribute, by which garbage collection keeps the base while the adapter
stays (`headrace.store.sealed_collecting`).
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path

from headrace.errors import HandoffCollected, HandoffMissing, InvalidInput
from headrace.store.objects import ObjectStore
from headrace.store.sealed_directory import NEEDS, WEIGHTS, open_directory

ADAPTER_CONFIG = "adapter_config.json"
_REFERENCE = re.compile(rf"headrace://{WEIGHTS}/([0-9a-f]{{64}})")


@dataclass(frozen=True, kw_only=True)
class Opened:
    """Weights on this machine. `base`: the directory of the model that they are adapters for; None: they are whole."""

    directory: Path
    base: Path | None = None

    @property
    def model(self) -> Path:
        """The directory with config and tokenizer."""
        return self.base or self.directory


def is_adapter(directory: Path) -> bool:
    return (directory / ADAPTER_CONFIG).is_file()


def reference_to(base_digest: str) -> str:
    """What an adapter's config names as its base."""
    return f"headrace://{WEIGHTS}/{base_digest}"


def attributes_of(base_digest: str) -> dict[str, str]:
    """Attributes with which an adapter is sealed."""
    return {NEEDS: base_digest}


def base_digest_of(directory: Path) -> str | None:
    """The digest of an adapter's base; None: the directory has whole weights.

    Raises:
        InvalidInput: it is an adapter that names its base otherwise.
    """
    if not is_adapter(directory):
        return None
    try:
        config = json.loads((directory / ADAPTER_CONFIG).read_text())
        named = str(config.get("base_model_name_or_path"))
    except (ValueError, AttributeError, RecursionError) as error:
        raise InvalidInput(f"{directory / ADAPTER_CONFIG} is no config of an adapter: {error}.") from error
    if found := _REFERENCE.fullmatch(named):
        return found[1]
    raise InvalidInput(
        f"The adapter in {directory} must name its base by digest, as {reference_to('…')}, got {named!r}. Train it by "
        "a recipe here, or merge it into its base and name the merged model."
    )


def with_base(objects: ObjectStore, directory: Path) -> Opened:
    """Opened weights, with their base if they are an adapter.

    Raises:
        InvalidInput: it is an adapter that does not name its base by digest.
        HandoffMissing: the base is not in the store.
        HandoffCorrupt: the base is damaged.
    """
    digest = base_digest_of(directory)
    if digest is None:
        return Opened(directory=directory)
    try:
        return Opened(directory=directory, base=open_directory(objects, digest))
    except (HandoffMissing, HandoffCollected) as error:
        raise type(error)(
            f"The base {digest[:12]} of the adapter in {directory} is gone: {error}", kind=WEIGHTS, digest=digest
        ) from error


def open_weights(objects: ObjectStore, digest: str) -> Opened:
    """Raises: as `open_directory` and `with_base`."""
    return with_base(objects, open_directory(objects, digest))
