"""`headrace check`: reads a project's YAML files, tells all their faults at once, and what they will do."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from headrace.command_line.options import AsJson, examples
from headrace.text.terminal import say

if TYPE_CHECKING:
    from collections.abc import Iterator

    from headrace.command_line.checking.report import CheckedFile
    from headrace.store.mounts import Finding

# The longest check's name, and a blank.
_CHECK_CHARS = 9


@examples(
    "headrace check                                    every campaign, recipe, corpus and service of the project",
    "headrace check glossary                           a campaign by its name",
    "headrace check resources/campaigns/glossary.yaml",
    "headrace check --offline --json",
)
def check(
    files: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[FILES]", help="YAML files, directories of them, or campaigns' names; all of the project without."
        ),
    ] = None,
    offline: Annotated[bool, typer.Option("--offline", help="Ask no server whether it is there.")] = False,
    as_json: AsJson = False,
) -> None:
    """Check YAML files: all faults with their line, files that are missing, the first prompt, what the gate can tell.

    A file's kind is told by its schema line, by its directory, or by its keys. The project is the directory above this
    one with [tool.dg] in its pyproject.toml; its .env and the environment say where its files are, and its Components
    are found as dg finds them. Exit 1: a file is broken, or names what is not there.
    """
    from headrace.command_line.checking.examining import examine_files, project_findings
    from headrace.command_line.checking.files import files_to_check
    from headrace.command_line.checking.report import CheckReport
    from headrace.command_line.components import components_of
    from headrace.command_line.output import counted, print_json
    from headrace.command_line.project import find_project

    project = find_project(Path.cwd(), os.environ)
    settings, components = project.settings(), components_of(project)
    checked = []
    candidates = files_to_check(files or [], settings, components)
    for one in examine_files(candidates, settings, components, offline=offline):
        checked.append(one)
        if not as_json:
            _print_file(one)
    findings = project_findings(settings, project)
    num_broken = sum(not one.is_well for one in checked)
    well = not num_broken and all(finding.level != "fail" for finding in findings)
    report = CheckReport(well=well, root=str(project.root), files=tuple(checked), findings=tuple(findings))
    if as_json:
        print_json(report)
    else:
        _print_findings(findings)
        told = [one.sentence for one in _all(checked)]
        of_demo = any("/models/smollm2-135m" in one or "/corpus/wordnet/" in one for one in told)
        if of_demo and not (settings.home / "corpus/wordnet").is_dir():
            say("The demo's model and corpus are not here yet: `make demo` and `make dev` make them.")
        num_warned = sum(finding.level == "warn" for one in (*checked, report) for finding in one.findings)
        say(f"{counted(len(checked), 'file')}: {num_broken} broken, {counted(num_warned, 'warning')}.")
    if not well:
        raise typer.Exit(1)


def _all(checked: "list[CheckedFile]") -> "Iterator[Finding]":
    return (finding for one in checked for finding in one.findings if finding.level == "fail")


def _print_file(one: "CheckedFile") -> None:
    from headrace.command_line.output import print_lines, print_marked

    # As a person names it, and as editors and terminals open it from here.
    here = Path.cwd()
    file = str(Path(one.file).relative_to(here)) if Path(one.file).is_relative_to(here) else one.file
    what = " ".join(filter(None, [one.kind or "file", one.name]))
    print_marked("ok" if one.is_well else "fail", f"{what}  {file}")
    for fault in one.faults:
        place = ":".join(str(part) for part in (file, fault.line, fault.column) if part is not None)
        print_lines([f"  {place}: {fault.sentence}"])
    # What a broken file will do once it is whole is no help now.
    told = [finding for finding in one.findings if one.is_well or finding.level != "ok"]
    _print_findings(told, indent="  ", file=file)
    if one.example is not None:
        say("  first prompt:" if one.kind == "campaign" else "  first training example:")
        print_lines([f"    {line}" for line in one.example.splitlines()])
    say()


def _print_findings(findings: "Sequence[Finding]", *, indent: str = "", file: str = "") -> None:
    from headrace.command_line.output import print_marked

    for finding in findings:
        # Where there is something to do, the place to do it.
        line, column = getattr(finding, "line", None), getattr(finding, "column", None)
        place = f"{file}:{line}:{column}: " if line is not None and finding.level != "ok" else ""
        print_marked(finding.level, f"{finding.check:{_CHECK_CHARS}} {place}{finding.sentence}", indent=indent)
