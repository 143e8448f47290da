"""What `headrace check --json` prints: `headrace schema check` describes it. Fields are added, never renamed."""

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TypeAlias

from headrace.store.mounts import Finding
from headrace.user_files.yaml_file import Document

Kind: TypeAlias = Literal["campaign", "recipe", "corpus", "images", "service"]
Level: TypeAlias = Literal["ok", "warn", "fail"]
KINDS: tuple[Kind, ...] = ("campaign", "recipe", "corpus", "images", "service")


@dataclass(frozen=True, kw_only=True)
class Fault:
    """One fault of a file that cannot be read."""

    line: int | None
    """From 1 on; null: it is of the whole file."""
    column: int | None
    """From 1 on; null: it is of the whole line, or of the whole file."""
    sentence: str
    """With the key, what stands there, and what was wanted."""


@dataclass(frozen=True, kw_only=True)
class FileFinding(Finding):
    """What a file that can be read will do, and where it says so."""

    key: str | None = None
    """The key that it is about, such as prompts.files; null: no single one."""
    line: int | None = None
    """Of that key's value, from 1 on."""
    column: int | None = None
    """From 1 on."""

    def placed(self, document: Document) -> "FileFinding":
        """With the place of its key in a file; of a key that the file leaves out, that of its section."""
        if self.key is None:
            return self
        keys = [int(part) if part.isdigit() else part for part in re.findall(r"[^][.]+", self.key)]
        line, column = document.place(keys)
        return replace(self, line=line, column=column)


@dataclass(frozen=True, kw_only=True)
class GateOutlook:
    """What a campaign's gate can tell; shares are of simulated trials."""

    pass_rate: float
    """The stable set's, which the trials are simulated with."""
    is_seen: bool
    """true: from the store's reviewed rows; false: assumed, since there are too few."""
    margin: float
    rows_a_night: int
    equal_promoted: float
    """Of a candidate that is as good as the stable set."""
    equal_undecided: float
    equal_harmful: float
    worse_sent_back: float
    """Of a candidate that is worse by the margin: for harm, or undecided at the horizon."""
    nights: float
    """The median of the trials of an equal candidate."""
    num_runs: int
    """How many trials of each candidate were simulated."""
    horizon_rows_wanted: int | None = None
    """If the gate is often undecided: a horizon that would do."""
    horizon_nights_wanted: int | None = None
    """As many nights does that horizon take."""


@dataclass(frozen=True, kw_only=True)
class CheckedFile:
    """One file."""

    file: str
    kind: Kind | None
    """null: it cannot be told."""
    name: str | None = None
    """The subject that it describes; null: it cannot be read."""
    faults: tuple[Fault, ...] = ()
    findings: tuple[FileFinding, ...] = ()
    example: str | None = None
    """The first prompt, or the first training example, in full, with what is learnt between ⟦ and ⟧."""
    gate: GateOutlook | None = None

    @property
    def is_well(self) -> bool:
        return not self.faults and all(finding.level != "fail" for finding in self.findings)


@dataclass(frozen=True, kw_only=True)
class CheckReport:
    """All checked files of a project."""

    well: bool
    """false: a file is broken, or a file or a variable names what is not there."""
    root: str
    """The project's directory."""
    files: tuple[CheckedFile, ...]
    findings: tuple[Finding, ...] = ()
    """Of the whole project."""


def finding(check: str, level: Level, sentence: str, *, key: str | None = None) -> FileFinding:
    """Args: key: the one that it is about, such as `prompts.files`; the sentence names it."""
    if key and not sentence.startswith(key):
        sentence = f"{key}: {sentence}"
    return FileFinding(check=check, level=level, sentence=sentence, key=key)


def faults_in(refusal: str, path: Path) -> tuple[Fault, ...]:
    """The faults that a reader's refusal tells: one in its only line, or each in a line of its own."""
    first, *lines = refusal.split("\n  ")
    return tuple(_fault(line, path) for line in lines or [first])


def _fault(line: str, path: Path) -> Fault:
    _, there, rest = line.partition(str(path))
    place = re.match(r":(\d+)(?::(\d+))?:? ", rest)
    if not there or not place:
        return Fault(line=None, column=None, sentence=line)
    return Fault(line=int(place[1]), column=int(place[2]) if place[2] else None, sentence=rest[place.end() :])
