"""Examines files one by one, and what only shows beside each other: names that are taken twice."""

import os
import shutil
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

from headrace.command_line.checking.files import Candidate, load
from headrace.command_line.checking.report import CheckedFile, FileFinding, faults_in, finding
from headrace.command_line.components import Component, check_names
from headrace.command_line.output import bytes_text
from headrace.command_line.project import Project
from headrace.errors import HeadraceError, InvalidInput, reason_of
from headrace.settings import Settings, misspelt_variables
from headrace.store.local import LocalStore
from headrace.store.mounts import Finding
from headrace.store.objects import ObjectStore
from headrace.training.devices import detect_devices
from headrace.user_files.finding import nearest_existing
from headrace.user_files.yaml_file import read_yaml

# A training's checkpoints and a night's rows of a small model; below it the next run may fill the disk.
_FREE_BYTES_MIN = 2 * 10**9


def examine_files(
    candidates: Sequence[Candidate], settings: Settings, components: Sequence[Component] = (), *, offline: bool
) -> Iterator[CheckedFile]:
    """One file at a time, since some wait for a server. `components`: the project's."""
    loaded: dict[Candidate, Any] = {}
    for candidate in candidates:
        try:
            loaded[candidate] = load(candidate)
        except InvalidInput as error:
            loaded[candidate] = error
    taken = _taken_twice(loaded)
    objects = _store(settings)
    for candidate, one in loaded.items():
        checked = CheckedFile(file=str(candidate.path), kind=candidate.kind)
        if isinstance(one, InvalidInput):
            yield replace(checked, faults=faults_in(str(one), candidate.path))
            continue
        checked = replace(checked, name=_name(one))
        try:
            examined = _examined(checked, one, settings, objects, offline=offline)
        except (HeadraceError, OSError) as error:  # a file that may not be read, a disk that fails
            examined = replace(checked, findings=(finding("files", "fail", reason_of(error)),))
        document = read_yaml(candidate.path, "File")
        named = (*taken.get(candidate, ()), *_component_findings(checked, candidate, components))
        findings = [found.placed(document) for found in (*named, *examined.findings)]
        yield replace(examined, findings=tuple(findings))


def project_findings(settings: Settings, project: Project) -> list[Finding]:
    """What is wrong with the project as a whole: its variables, its disk."""
    places = {"state": settings.home}
    if "://" not in settings.store_url:
        places["store"] = Path(settings.store_url)
    found: dict[int, Finding] = {}
    for what, place in places.items():
        there = next(path for path in [place, *place.parents] if path.exists())
        free = shutil.disk_usage(there).free
        low = free < _FREE_BYTES_MIN
        sentence = f"{bytes_text(free)} free for the {what} in {place}" + (": free some space first." if low else ".")
        found.setdefault(there.stat().st_dev, Finding(check="disk", level="warn" if low else "ok", sentence=sentence))
    named = {
        "HEADRACE_CORPUS": settings.corpus,
        "HEADRACE_IMAGES": settings.images,
        "HEADRACE_RECIPES": settings.recipes,
        "HEADRACE_CAMPAIGNS": settings.campaigns,
        "HEADRACE_SERVICES": settings.services,
    }
    wrong = [
        Finding(check="variable", level="warn", sentence=project.placed(one))
        for one in misspelt_variables(project.environment)
    ]
    for name, path in named.items():
        if not project.environment.get(name):
            continue
        if not path.exists():
            said = f"{name} names {path}, which is not there. {nearest_existing(str(path), path)}"
        elif path.is_dir() is (name in ("HEADRACE_CORPUS", "HEADRACE_IMAGES")):
            said = f"{name} names {path}, which is no {'file' if path.is_dir() else 'directory'}."
        else:
            continue
        wrong.append(Finding(check="variable", level="fail", sentence=project.placed(said)))
    return [*wrong, *found.values()]


def _examined(
    checked: CheckedFile, one: Any, settings: Settings, objects: ObjectStore | None, *, offline: bool
) -> CheckedFile:
    # Imported separately: a corpus needs polars, a gate scipy.
    if checked.kind == "campaign":
        from zoneinfo import ZoneInfo

        from headrace.command_line.checking.campaigns import examine_campaign
        from headrace.training.recipe import load_recipes

        today = datetime.now(ZoneInfo(settings.timezone)).date()
        try:
            campaign = one.with_engine(settings.engine)
        except InvalidInput as error:
            return replace(checked, findings=(finding("engine", "fail", str(error)),))
        recipes = load_recipes(settings.recipes)
        found = examine_campaign(campaign, settings.home, today, objects, recipes, offline=offline)
        return replace(checked, findings=found.findings, example=found.example, gate=found.gate)
    if checked.kind == "corpus":
        from headrace.command_line.checking.corpora import examine_corpus

        corpus = examine_corpus(one, settings.home, settings.base_model)
        return replace(checked, findings=corpus.findings, example=corpus.example)
    if checked.kind == "images":
        from headrace.command_line.checking.images import examine_images

        images = examine_images(one, settings.home)
        return replace(checked, findings=images.findings, example=images.example)
    if checked.kind == "recipe":
        from headrace.command_line.checking.recipes import examine_recipe

        devices = detect_devices(os.environ)
        return replace(checked, findings=tuple(examine_recipe(one, settings, objects, devices)))
    from headrace.command_line.checking.services import examine_service

    return replace(checked, findings=tuple(examine_service(one, settings.home, offline=offline)))


def _taken_twice(loaded: dict[Candidate, Any]) -> dict[Candidate, tuple[FileFinding, ...]]:
    """Files that name one subject, campaigns and services together, since they would share a journal."""
    by_name: dict[tuple[str, str], list[Candidate]] = defaultdict(list)
    for candidate, one in loaded.items():
        if not isinstance(one, InvalidInput):
            has_rollout = candidate.kind in ("campaign", "service")
            by_name["rollout" if has_rollout else str(candidate.kind), _name(one)].append(candidate)
    found: dict[Candidate, tuple[FileFinding, ...]] = {}
    for (_, name), files in by_name.items():
        for file in files if len(files) > 1 else ():
            others = " and ".join(str(other.path) for other in files if other != file)
            sentence = f"{name!r} stands in {others}, too: rename one, or nobody can say which is meant."
            found[file] = (finding("name", "fail", sentence, key="name"),)
    return found


def _component_findings(
    checked: CheckedFile, candidate: Candidate, components: Sequence[Component]
) -> Iterator[FileFinding]:
    """What would stop the code location."""
    if checked.name and any(one.campaign.resolve() == candidate.path.resolve() for one in components):
        try:
            check_names(checked.name, candidate.path, components)
        except InvalidInput as error:
            yield finding("name", "fail", str(error), key="name")


def _name(one: Any) -> str:
    return str(one.key if hasattr(one, "key") else one.name)


def _store(settings: Settings) -> ObjectStore | None:
    """The project's store, if there is one; a check creates none."""
    try:
        objects = settings.open_store()
    except HeadraceError:
        return None
    return None if isinstance(objects, LocalStore) and not objects.directory.is_dir() else objects
