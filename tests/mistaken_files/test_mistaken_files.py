"""What people write wrongly: `headrace check` refuses it where it stands, or warns where it does no harm.

The mistakes were collected before anybody looked whether they are refused. `headrace check` is the one door for all of
them; what it tells from loading a file, every other reader of the file tells too.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from PIL import Image

from headrace.command_line.checking.examining import examine_files, project_findings
from headrace.command_line.checking.files import Candidate
from headrace.command_line.checking.report import KINDS, CheckedFile, Kind
from headrace.command_line.project import find_project
from headrace.errors import InvalidInput
from headrace.settings import settings_of
from tests.mistaken_files import campaigns, corpora, images, prompt_files, recipes, services, variables

# Of all mistakes together; and what is told of each of these.
_REFUSED_SHARE_MIN = 0.97
_FILES: dict[Kind, str] = {
    "campaign": campaigns.FILE,
    "recipe": recipes.FILE,
    "corpus": corpora.FILE,
    "images": images.FILE,
    "service": services.FILE,
}
_MISTAKES: dict[Kind, Sequence[tuple[str, str, str, str]]] = {
    "campaign": campaigns.MISTAKES,
    "recipe": recipes.MISTAKES,
    "corpus": corpora.MISTAKES,
    "images": images.MISTAKES,
    "service": services.MISTAKES,
}
# What nobody can tell from what is meant: kind, what stands in the file, what a person wrote instead, and why.
_ACCEPTED: list[tuple[Kind, str, str, str]] = [
    (
        "corpus",
        "Explain {term}.",
        "Explain it.",
        "one prompt for all documents is how a model learns to write such texts",
    ),
    ("campaign", "Tell of {thing}.", "Tel of {thing}.", "a prompt may be worded as its author likes"),
    ("campaign", "temperature: 0.7", "temperature: 1.7", "servers take it, and some tasks want it"),
    ("campaign", "words_max: 60", "words_max: 6", "a campaign for headlines rejects longer ones"),
    ("service", "prompt: 1", "prompt: 1000", "what a token costs, and in which currency, is not written anywhere else"),
    ("recipe", "steps: 10", "steps: 10000", "how long to train is the author's to say"),
]


@dataclass(frozen=True, kw_only=True)
class Told:
    """`is_refused`: a fault or a failed finding, which ends the command with 1; otherwise `text` has warnings alone."""

    is_refused: bool
    text: str

    def lacks(self, parts: str) -> list[str]:
        return [part for part in parts.split(" … ") if part not in self.text]


def _told(file: Path, checked: CheckedFile) -> Told:
    """As the command prints it, with the file before each place."""
    found = [one for one in checked.findings if one.level != "ok"]
    lines = [f"{file}:{one.line}:{one.column}: {one.sentence}" for one in (*checked.faults, *found)]
    return Told(is_refused=not checked.is_well, text="\n".join(lines))


class _Home:
    """A project's state, with what the files name."""

    def __init__(self, home: Path) -> None:
        self.home = home
        (home / "notes").mkdir()
        model = home / "models/smollm2-135m"
        model.mkdir(parents=True)
        self._write("prompts.jsonl", [{"thing": f"thing {number}", "n": number} for number in range(20)])
        self._write("notes/a.jsonl", [{"title": f"t {n}", "body": f"What stands in note {n}."} for n in range(20)])
        # It trains the model of the campaign's file.
        (home / "resources/recipes").mkdir(parents=True)
        (home / "resources/recipes/define.yaml").write_text(recipes.FILE)
        self._put_pictures()
        self.settings = settings_of({"HEADRACE_HOME": str(home), "HEADRACE_BASE_MODEL": "a-model-of-a-hub"}, home)

    def _write(self, name: str, rows: list[dict[str, object]]) -> None:
        (self.home / name).write_text("".join(json.dumps(row) + "\n" for row in rows))

    def _put_pictures(self) -> None:
        directory = self.home / "pictures"
        for below in ("bad", "bare"):
            (directory / below).mkdir(parents=True)
        for number in range(20):
            Image.linear_gradient("L").save(directory / f"{number}.png")
            (directory / f"{number}.txt").write_text(f"a ramp of grey, number {number}")
        (directory / "bad/page.png").write_text("<html>404</html>")
        Image.linear_gradient("L").save(directory / "bare/ramp.png")
        (directory / "photo.heic").write_bytes(b"no one reads it")
        self._write("pictures/list.jsonl", [{"picture": f"{number}.png"} for number in range(20)])

    def check(self, kind: Kind, text: str) -> Told:
        file = self.home / "some.yaml"
        file.write_text(text)
        (checked,) = examine_files([Candidate(path=file, kind=kind)], self.settings, offline=True)
        return _told(file, checked)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> _Home:
    return _Home(tmp_path_factory.mktemp("home"))


def _of_files(home: _Home) -> Iterator[tuple[str, Told, list[str]]]:
    for kind in KINDS:
        for old, new, place, parts in _MISTAKES[kind]:
            text = _FILES[kind]
            assert not old or text.count(old) == 1, old
            told = home.check(kind, text.replace(old, new) if old else new)
            yield (
                f"{kind}: {new!r} for {old!r}",
                told,
                told.lacks(f"some.yaml:{place} … {parts}".replace(" …  … ", " … ")),
            )


def _of_prompts(home: _Home) -> Iterator[tuple[str, Told, list[str]]]:
    directory = home.home / "prompts"
    for number, (name, body, parts) in enumerate(prompt_files.MISTAKES):
        place = directory / str(number)
        place.mkdir(parents=True)
        (place / name).write_bytes(body)
        told = home.check("campaign", campaigns.FILE.replace("prompts.jsonl", f"'{place / name}'"))
        yield f"prompts: {name} with {body[:60]!r}", told, told.lacks(f"some.yaml:4: … {parts}")


def _of_variables(home: _Home) -> Iterator[tuple[str, Told, list[str]]]:
    project = home.home / "project"
    (project / "resources/campaigns").mkdir(parents=True)
    (project / "pyproject.toml").write_text("[tool.dg]\n")
    for line, parts in variables.MISTAKES:
        (project / ".env").write_text(f"# Of this machine.\nHEADRACE_NOTE=1\n{line}\n")
        try:
            found = find_project(project, {})
            findings = [one for one in project_findings(found.settings(), found) if one.level != "ok"]
        except InvalidInput as error:
            told = Told(is_refused=True, text=str(error))
        else:
            is_refused = any(one.level == "fail" for one in findings)
            told = Told(is_refused=is_refused, text="\n".join(one.sentence for one in findings))
        yield f".env: {line}", told, told.lacks(f".env:3: … {parts}")


def test_at_least_97_of_100_mistakes_are_refused_and_none_is_passed_over(home: _Home) -> None:
    all_told = [*_of_files(home), *_of_prompts(home), *_of_variables(home)]
    wrong = [f"{what}\n    lacks {lacks}\n    in {told.text[:400]}" for what, told, lacks in all_told if lacks]
    silent = [what for what, told, lacks in all_told if lacks and not told.is_refused]
    assert silent == []
    assert wrong == [], "\n".join(wrong)
    refused = sum(told.is_refused for _, told, _ in all_told)
    assert len(all_told) >= 144
    assert refused / len(all_told) >= _REFUSED_SHARE_MIN, f"{refused} of {len(all_told)}"


@pytest.mark.parametrize(("kind", "old", "new", "reason"), _ACCEPTED, ids=[new for _, _, new, _ in _ACCEPTED])
def test_what_nobody_can_tell_from_what_is_meant_is_accepted(
    home: _Home, kind: Kind, old: str, new: str, reason: str
) -> None:
    assert _FILES[kind].count(old) == 1
    assert not home.check(kind, _FILES[kind].replace(old, new)).is_refused, reason


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_file_without_a_mistake_is_well(home: _Home, kind: Kind) -> None:
    assert not home.check(kind, _FILES[kind]).is_refused


def test_what_only_looks_like_a_mistake_is_read(home: _Home) -> None:
    for file in (
        campaigns.FILE.replace("num_shards: 4", "num_shards: 0x4"),
        campaigns.FILE.replace("\n", "\r\n"),
        "\ufeff" + campaigns.FILE,
        campaigns.FILE.replace('"Tell of {thing}."', '\'Answer as {{"a": "{thing}"}}, and leave {{{{slot}}}}.\''),
        campaigns.FILE.replace(
            'user: "{text}"', 'user: "{text}", system: "Answer as {\\"a\\": 1}, in \\\\frac{a}{b}."'
        ),
    ):
        told = home.check("campaign", file)
        assert not told.is_refused, told.text


def test_two_files_of_one_name_are_both_refused(home: _Home) -> None:
    texts = {"a": campaigns.FILE, "b": campaigns.FILE, "c": services.FILE.replace("name: desk", "name: tales")}
    kinds: dict[str, Kind] = {"a": "campaign", "b": "campaign", "c": "service"}
    files = []
    for name, text in texts.items():
        files.append(Candidate(path=home.home / f"{name}.yaml", kind=kinds[name]))
        files[-1].path.write_text(text)
    checked = {Path(one.file).stem: one for one in examine_files(files, home.settings, offline=True)}
    for name, others in (("a", "bc"), ("b", "ac"), ("c", "ab")):
        told = _told(Path(checked[name].file), checked[name])
        assert told.is_refused
        assert told.lacks(" … ".join([f"{name}.yaml:1:7: name: 'tales'", *(f"{one}.yaml" for one in others)])) == []
