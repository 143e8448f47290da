"""Engines of other packages that break the rules of a kind: refused in one sentence that names engine and package."""

import logging
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from headrace.engines import registry
from headrace.engines.conformance import opened
from headrace.engines.cpu import cpu_kind
from headrace.engines.deployment import Deployment
from headrace.engines.registry import NoOptions, engine_kind, engine_names, open_engine
from headrace.errors import InvalidInput
from headrace.generation.campaign import Campaign, load_campaign
from headrace.user_files.json_schema import json_schema
from tests.generation.builders import make_member

MODULE = """
import asyncio, enum, sys
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal
from headrace.engines.base import Answer, Engine
from headrace.engines.registry import EngineKind

class Odd(Engine):
    async def answer(self, turn):
        return Answer(text="hello", finish_reason="stop")

class Idle(Odd):
    num_at_once = 0

class Fixed(Odd):
    @property
    def build(self):
        return "1"

class Colour(enum.Enum):
    RED = "red"

@dataclass(frozen=True, kw_only=True)
class Part:
    sizes: tuple[int, ...] = ()
    more: "Part | None" = None

def ended(error):
    raise error
"""
Install = Callable[..., str]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Installs a package whose engine `odd` is made of the lines given, or as it should be; returns that name."""

    def install(lines: str = "", package: str = "odd") -> str:
        site = tmp_path / package
        info = site / f"{package}-1.dist-info"
        info.mkdir(parents=True)
        (site / f"{package}_engine_{tmp_path.name.replace('-', '_')}.py").write_text(MODULE + (lines or kind()))
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1\n")
        module = next(site.glob("*.py")).stem
        (info / "entry_points.txt").write_text(f"[headrace.engines]\nodd = {module}:KIND\n")
        monkeypatch.syspath_prepend(site)
        forget()
        return "odd"

    def forget() -> None:
        registry._points.cache_clear()
        registry._loaded.cache_clear()

    yield install
    monkeypatch.undo()
    forget()


def kind(**changes: str) -> str:
    """The line that makes the kind."""
    arguments = {"name": "'odd'", "open": "lambda opening: Odd()"} | changes
    return f"KIND = EngineKind({', '.join(f'{name}={value}' for name, value in arguments.items())})"


def options(fields: str, decorator: str = "@dataclass(frozen=True, kw_only=True)") -> str:
    return f"{decorator}\nclass Options:\n    {fields}\n{kind(options='Options')}"


def test_two_packages_with_one_name_are_refused_and_named(install: Install) -> None:
    install(package="odd_one")
    name = install(package="odd_two")
    with pytest.raises(InvalidInput, match=r"Several packages have an engine 'odd': odd_one 1 .* and odd_two 1 "):
        engine_kind(name)
    assert engine_kind("echo").name == "echo"


@pytest.mark.parametrize(
    ("opening", "why"),
    {
        "lambda opening: None": "must be opened as an Engine for text, got None",
        "lambda opening: 'x'": "must be opened as an Engine for text, got something of type str",
        "lambda opening: sys.exit(4)": "raised SystemExit when opened",
        "lambda opening: Fixed()": "take name, build and deterministic as attributes: AttributeError",
        "lambda opening: ended(asyncio.CancelledError())": "raised CancelledError when opened",
        "lambda opening: Idle()": "num_at_once of engine 'odd' (odd 1) must be a whole number, at least 1, got 0",
    }.items(),
)
def test_what_is_opened_must_be_an_engine(install: Install, opening: str, why: str) -> None:
    name = install(kind(open=opening))
    with pytest.raises(InvalidInput) as caught:
        opened(name)
    assert why in str(caught.value)
    assert "'odd' (odd 1)" in str(caught.value)


@pytest.mark.parametrize(
    ("lines", "why"),
    {
        options("a: int = 1", "@dataclass(kw_only=True)"): "must be a frozen dataclass, got <class",
        options("a: int = 1", ""): "must be a frozen dataclass, got <class",
        options("a: list[str] = field(default_factory=list)"): "got list[str]: use tuple[str, ...]",
        options("a: tuple[set[int], ...] = ()"): "got set[int]: use tuple[int, ...]",
        options("a: frozenset | None = None"): "got frozenset: use tuple[str, ...]",
        options("a: bytes = b''"): "a must be of a type that YAML and JSON have, got bytes: use str, int",
        options("a: Colour = Colour.RED"): "got Colour: use str, int",
        options("a: 'Missing' = 1"): "has a type that cannot be read: NameError",
        options("name: str = 'x'"): "has a field 'name', which is the engine's own in a file",
        options("a: float = float('inf')"): "the default of a must be a value of JSON, and finite, got inf",
        options("a: int = field(default_factory=lambda: 1 // 0)"): "the default of a raised ZeroDivisionError",
        options("a: Any = field(default_factory=object)"): "the default of a must be a value of JSON",
        kind(packages="('',)"): "must be a tuple of distributions' names",
        kind(packages="'torch'"): "got 'torch'",
        kind(name="'even'"): "must be an EngineKind of that name",
        "raise ValueError('half a pair: \\ud83d')": "cannot be imported: ValueError: half a pair: ?",
        "sys.exit(3)": "cannot be imported: SystemExit: 3",
    }.items(),
)
def test_a_kind_that_breaks_the_rules_is_refused_with_its_package(install: Install, lines: str, why: str) -> None:
    name = install(lines)
    with pytest.raises(InvalidInput) as caught:
        engine_kind(name)
    assert why in str(caught.value)
    assert "'odd' (odd_engine" in str(caught.value)
    assert ":KIND of odd 1)" in str(caught.value)


def test_options_of_every_type_that_a_file_can_give_are_taken(install: Install) -> None:
    name = install(
        options(
            "a: Literal['x', 'y'] = 'x'\n    b: dict[str, float] | None = None\n    c: tuple[Part, ...] = (Part(),)\n"
            "    d: Annotated[int, 'a note'] = 1\n    e: Part = Part()\n    f: bool\n    g: Any = None"
        )
    )
    engine = opened(name, f=True)
    assert engine.name == "odd"


def test_options_that_cannot_be_checked_are_one_fault_of_their_file(install: Install, tmp_path: Path) -> None:
    install(options("a: int = 1\n    def __post_init__(self):\n        {}[self.a]"))
    file = tmp_path / "glossary.yaml"
    file.write_text(
        "name: glossary\nmodel: tiny\nnum_shards: none\nprompts: {files: a.jsonl, per_shard: 2}\n"
        "decoding: {temperature: 0, top_p: 1, max_new_tokens: 8}\nengine: {name: odd, a: 2}\n"
    )
    with pytest.raises(InvalidInput) as caught:
        load_campaign(file)
    assert "num_shards" in str(caught.value)
    assert "cannot be checked by Options: KeyError: 2" in str(caught.value)


@pytest.mark.parametrize("lines", ["raise ValueError('no')", "sys.exit(3)", options("a: list[str] = ()")])
def test_a_broken_package_is_left_out_of_the_schema_with_a_warning(
    install: Install, lines: str, caplog: pytest.LogCaptureFixture
) -> None:
    install(lines)
    with caplog.at_level(logging.WARNING):
        engines = json_schema(Campaign, "Headrace campaign")["$defs"]["EngineSettings"]["anyOf"]
    titles = {one["title"] for one in engines}
    assert titles == {*engine_names()} - {"odd"}
    assert "echo" in titles
    assert {record.getMessage().partition(":")[0] for record in caplog.records} == {"Left out of the schema"}
    assert "of odd 1" in caplog.text


@pytest.mark.parametrize(
    ("changes", "cpu", "build"),
    [
        ({"computes_here": "True"}, "Z80", f"CPU {cpu_kind()}"),
        # A set that is older than the record of its CPU has no other build for it.
        ({"computes_here": "True"}, "", ""),
        ({}, "", ""),
    ],
)
def test_an_engine_that_computes_here_is_another_build_on_another_cpu(
    install: Install, changes: dict[str, str], cpu: str, build: str
) -> None:
    found = engine_kind(install(kind(**changes)))
    spec = replace(found.spec(NoOptions()), cpu=cpu)
    engine = open_engine(make_member(), spec, None, Deployment())  # pyright: ignore[reportArgumentType]
    assert engine.build == build


def test_on_a_gpu_the_cpu_does_not_count(install: Install) -> None:
    name = install(
        "class Far(Odd):\n    computes_on_cpu = False\n" + kind(open="lambda opening: Far()", computes_here="True")
    )
    spec = replace(engine_kind(name).spec(NoOptions()), cpu="Z80")
    engine = open_engine(make_member(), spec, None, Deployment())  # pyright: ignore[reportArgumentType]
    assert engine.build == spec.whole_build
