"""Which files are checked, and as what: a file says its kind itself, or lies where its kind lies, or has its keys."""

import os
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any

from headrace.command_line.campaigns import campaign_files
from headrace.command_line.checking.report import KINDS, Kind
from headrace.command_line.components import Component
from headrace.errors import InvalidInput
from headrace.settings import Settings
from headrace.user_files.finding import nearest_existing
from headrace.user_files.yaml_file import read_yaml

# Editors look for it in the first lines alone.
_SCHEMA_LINE = re.compile(r"^#\s*yaml-language-server:\s*\$schema=\S*?(\w+)\.schema\.json\s*$", re.MULTILINE)
_BEGINNING_CHARACTERS = 4096


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A file to check; `kind` None: it cannot be read far enough to tell."""

    path: Path
    kind: Kind | None


def files_to_check(words: Sequence[str], settings: Settings, components: Sequence[Component] = ()) -> list[Candidate]:
    """The named files, directories and campaigns, or without any all of the project.

    Raises:
        InvalidInput: a word names neither a file nor a campaign, nobody can say what a file is, or there is no file at
            all.
    """
    if words:
        paths = [path for word in words for path in _named(word, settings, components)]
        return [Candidate(path=path, kind=kind_of(path, settings)) for path in dict.fromkeys(paths)]
    found = [
        *(Candidate(path=path, kind=kind) for kind, place in _places(settings).items() for path in _in(place)),
        *(Candidate(path=one.campaign, kind="campaign") for one in components),
        *(Candidate(path=path, kind=kind) for kind, path in _single(settings).items() if path.exists()),
    ]
    if not found:
        places = ", ".join(map(str, [*_places(settings).values(), *_single(settings).values()]))
        raise InvalidInput(
            f"There is no file to check in {places}. Name files, or set HEADRACE_CAMPAIGNS and the other variables, in "
            "the environment or in the project's .env."
        )
    return sorted(found, key=lambda one: (KINDS.index(one.kind or "campaign"), one.path))


def load(candidate: Candidate) -> Any:
    """Raises: InvalidInput: the file is broken, with all its faults."""
    _, read = _reading(candidate.kind or "campaign")
    return read(candidate.path)


def kind_of(path: Path, settings: Settings) -> Kind | None:
    """Raises: InvalidInput: the file can be read, and nobody can say what it is."""
    # Its reader says what is wrong with a file that may not be read.
    with suppress(OSError), path.open(encoding="utf-8", errors="replace") as text:
        told = _SCHEMA_LINE.search(text.read(_BEGINNING_CHARACTERS))
        if told and told[1] in KINDS:
            return next(kind for kind in KINDS if kind == told[1])
    absolute = path.absolute()
    for kind, place in _places(settings).items():
        if absolute.parent == place:
            return kind
    for kind, file in _single(settings).items():
        if absolute == file:
            return kind
    try:
        content = read_yaml(path, "File").content
    except InvalidInput:
        return None
    keys = set(content) if isinstance(content, Mapping) else set[str]()
    scores = {kind: _fit(_reading(kind)[0], keys) for kind in KINDS}
    best: list[Kind] = [kind for kind in KINDS if scores[kind] == max(scores.values())]
    if len(best) > 1 or scores[best[0]][0] == 0:
        raise InvalidInput(
            f"{path} does not say what it is: {', '.join(KINDS[:-1])} or {KINDS[-1]}. Begin it with the line "
            "# yaml-language-server: $schema=campaign.schema.json, or that of its kind."
        )
    return best[0]


def _fit(shape: Any, keys: set[str]) -> tuple[int, int]:
    """How many of a file's keys a kind knows, besides what all have; and of those that it needs, how few it lacks."""
    needed = {one.name for one in fields(shape) if one.default is MISSING and one.default_factory is MISSING}
    return len(keys & {one.name for one in fields(shape)} - {"name"}), -len(needed - keys)


def _named(word: str, settings: Settings, components: Sequence[Component]) -> list[Path]:
    path = Path(os.path.normpath(word))
    if not path.exists() and (described := campaign_files(word, settings, components)):
        return described
    if path.is_dir():
        if not (found := _in(path)):
            raise InvalidInput(f"{path} is a directory without a *.yaml file: name files.")
        return found
    if not path.is_file():
        none = "" if "/" in word or path.suffix in (".yaml", ".yml") else f" and no campaign {word!r}"
        raise InvalidInput(f"There is no file {path}{none}. {nearest_existing(str(path), Path.cwd())}")
    return [path]


def _in(directory: Path) -> list[Path]:
    return sorted([*directory.glob("*.yaml"), *directory.glob("*.yml")])


def _places(settings: Settings) -> dict[Kind, Path]:
    return {"campaign": settings.campaigns, "recipe": settings.recipes, "service": settings.services}


def _single(settings: Settings) -> dict[Kind, Path]:
    """The kinds of which a project has one file."""
    return {"corpus": settings.corpus, "images": settings.images}


def _reading(kind: Kind) -> tuple[Any, Callable[[Path], Any]]:
    """The dataclass that a kind of file is read into, and its reader."""
    # Imported separately: a corpus imports polars.
    if kind == "campaign":
        from headrace.generation.campaign import Campaign, load_campaign

        return Campaign, load_campaign
    if kind == "recipe":
        from headrace.training.recipe import Recipe, load_recipe

        return Recipe, load_recipe
    if kind == "corpus":
        from headrace.prep.corpus import Corpus, load_corpus

        return Corpus, load_corpus
    if kind == "images":
        from headrace.prep.images.corpus import ImageCorpus, load_images

        return ImageCorpus, load_images
    from headrace.serving.service import Service, load_service

    return Service, load_service
