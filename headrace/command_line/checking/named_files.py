"""What a file names on this machine besides its texts: directories of models, and how its texts are divided."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from headrace.command_line.checking.report import FileFinding, finding
from headrace.command_line.output import counted
from headrace.engines.model_directory import local_model_directory, model_directory
from headrace.engines.roles import Role
from headrace.errors import InvalidInput
from headrace.generation.media_review.picture_settings import PictureReview
from headrace.handoff.layout import asset_prefix
from headrace.store.objects import ObjectStore
from headrace.user_files.finding import found_files, nearest_existing
from headrace.user_files.layout import FileLayout
from headrace.user_files.records import format_of


def model_finding(name: str, home: Path, *, key: str | None, what: str) -> FileFinding:
    """Whether a model's directory is there. Nothing is fetched for this.

    Args:
        home: where a relative name starts.
        what: what the model is: "base model".
    """
    if found := local_model_directory(name, home):
        return finding("model", "ok", f"the {what} is {found}.")
    nearest = nearest_existing(name, home)
    # As `model_directory` tells a directory from a name of the hub.
    if Path(name).expanduser().is_absolute() or name.startswith(".") or name.count("/") > 1:
        return finding("model", "fail", f"there is no {what} {name}. {nearest}", key=key)
    sentence = f"the {what} {name} is no directory in {home}: it will be fetched from the hub. {nearest}"
    return finding("model", "warn", sentence, key=key)


def reference_findings(settings: PictureReview | None, home: Path, objects: ObjectStore | None) -> list[FileFinding]:
    """Whether there are true pictures to compare a painter's with. None is opened for this."""
    if settings is None or settings.references is None:
        return []
    key, named = "review.pictures.references", settings.references
    if settings.is_asset:
        num = len(objects.children(asset_prefix(named))) if objects is not None else 0
        if num:
            return [finding("references", "ok", f"{counted(num, 'partition')} of {named}.")]
        return [finding("references", "warn", f"{named} has no partition yet: make it before rows.", key=key)]
    try:
        num = len(found_files(named, home))
    except InvalidInput as error:
        return [finding("references", "fail", str(error), key=key)]
    if num:
        return [finding("references", "ok", f"{named}: {counted(num, 'file')}.")]
    return [finding("references", "fail", f"no file matches {named}. {nearest_existing(named, home)}", key=key)]


def weights_findings(roles: Mapping[str, Role], home: Path, *, in_roles: bool) -> list[FileFinding]:
    """Whether the weights that roles name are here, and would be opened, as far as small files tell.

    Args: in_roles: the file has a section `roles`, and not one writer.
    """
    found = []
    for name, role in roles.items():
        if role.weights is None:
            continue
        key = f"roles.{name}.weights" if in_roles else "weights"
        told = model_finding(role.weights, home, key=key, what="model")
        if told.level == "ok":
            try:
                directory = model_directory(role.weights, setting=key, home=home)
                left = role.engine.kind.check_member(role.member(name, None, engine=None), directory)
                told = replace(told, sentence=f"{told.sentence} {left}".rstrip())
            except InvalidInput as error:
                told = finding("model", "fail", str(error), key=key)
        found.append(told)
    return found


def delimiter_findings(layout: FileLayout, files: Iterable[Path], *, key: str) -> list[FileFinding]:
    """A delimiter that no file has a use for."""
    if layout.delimiter is None or any(format_of(file, layout) == "csv" for file in files):
        return []
    return [
        finding(
            "files", "warn", f"{key} is for CSV, and no file is one, got {layout.delimiter!r}: leave it out.", key=key
        )
    ]
