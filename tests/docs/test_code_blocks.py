"""Every code block of the documentation is run, loaded or parsed; one that is not says why in a comment before it."""

import ast
import importlib.util
import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from headrace.generation.campaign import load_campaign
from headrace.placement.discovery_file import read_fleet_file
from headrace.prep.corpus import load_corpus
from headrace.prep.images.corpus import load_images
from headrace.serving.service import load_service
from headrace.training.recipe import load_recipe
from pipelines.object_store import free_ports
from tests.command_line.builders import run
from tests.docs.blocks import CHECKOUT, PAGES, Block, blocks, commands, prose
from tests.docs.calls import refusal

ALL = [block for page in PAGES for block in blocks(page)]
SHELL = ("sh", "bash", "console")
_LOADERS: dict[str, Callable[[Path], Any]] = {
    "campaign": load_campaign,
    "corpus": load_corpus,
    "images": load_images,
    "recipe": load_recipe,
    "service": load_service,
    "service that hears": load_service,
}
# What a part of a file is put into.
_WHOLE = {
    "campaign": "resources/campaigns/glossary.yaml",
    "corpus": "resources/corpus.yaml",
    "recipe": "resources/recipes/smollm2-135m.define.yaml",
    "service": "resources/services/assistant.yaml",
}
_ONE_WRITER = ("model", "prompt_template", "decoding", "engine")
# Command lines in sentences: with placeholders of the form [X], or cut short, they are read by people alone.
_INLINE = re.compile(r"`((?:headrace|make|dg) [^`]*)`")
# In a sentence, arguments and values may be left out.
_LEFT_OUT = re.compile(r"MissingParameter|NoArgsIsHelpError|BadOptionUsage.* requires an argument")
_LOOSE = re.compile(r"[\[\]…|<>{}$]|\.\.\.")


def of(*languages: str) -> list[Any]:
    return [pytest.param(block, id=block.label) for block in ALL if block.language in languages]


def test_every_block_says_what_it_is_and_how_it_is_checked() -> None:
    unclear = {
        block.label: block.language
        for block in ALL
        if block.language not in (*SHELL, "yaml", "python", "toml", "text")
        or (block.language == "yaml" and not block.note)
    }
    assert unclear == {}
    reasons = [block.note for block in ALL if block.note.startswith("unchecked: ")]
    assert all(len(reason.split()) > 4 for reason in reasons)


def test_every_command_of_a_block_is_one_that_its_program_takes() -> None:
    refused = {
        f"{block.label}: {' '.join(words)}": reason
        for block in ALL
        if block.language in SHELL
        for words in commands(block)
        if (reason := refusal(words))
    }
    assert refused == {}
    num_ours = sum(words[0] == "headrace" for block in ALL if block.language in SHELL for words in commands(block))
    assert num_ours > 80


def test_every_command_in_a_sentence_is_one_that_its_program_takes() -> None:
    refused = {
        f"{page.name}: {call}": reason
        for page in PAGES
        for call in _INLINE.findall(prose(page))
        if not _LOOSE.search(call) and (reason := refusal(_without_placeholders(shlex.split(call))))
        if not _LEFT_OUT.match(reason)
    }
    assert refused == {}


def test_a_wrong_command_is_found() -> None:
    wrong = [
        "headrace hand ls",
        "headrace gc --keep many",
        "headrace handoff ls a b c",
        "headrace why --loud",
        "make x",
    ]
    assert all(refusal(call.split()) for call in wrong)


def test_every_shell_block_is_one_that_bash_reads() -> None:
    for block in ALL:
        if block.language in ("sh", "bash"):
            read = subprocess.run(["bash", "-n"], input=block.text, capture_output=True, text=True, check=False)
            assert read.returncode == 0, f"{block.label}: {read.stderr}"


def test_the_three_commands_work_as_they_stand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The third is run by the test of its processes."""
    text = next(block.text for block in ALL if "headrace init --prompts products.csv" in block.text)
    pages = {block.page.name for block in ALL if block.text == text}
    assert pages == {"README.md", "index.md", "own-campaign.md"}
    (tmp_path / "pyproject.toml").write_text('[tool.dg.project]\nroot_module = "mine"\n')
    (tmp_path / "products.csv").write_text("product\nkettle\nlamp\n")
    monkeypatch.chdir(tmp_path)
    variables = {"HEADRACE_CAMPAIGNS": None, "HEADRACE_ENGINE": None, "HEADRACE_TIMEZONE": None}

    init, preview, _ = (shlex.split(line, comments=True)[1:] for line in text.splitlines())
    written, shown = run(*init, env=variables), run(*preview, env=variables)

    assert (written.exit_code, shown.exit_code) == (0, 0), written.output + shown.output
    assert "A tagline for kettle." in shown.output


def as_it_stands(beginning: str, directory: Path) -> "subprocess.CompletedProcess[str]":
    """Runs the one block of a gateway that begins so, on a free port and with its files in `directory`."""
    [text] = [block.text for block in ALL if "--initialize" in block.text and beginning in block.text]
    port, broker = free_ports(2)
    program = text.replace("8080", str(port)).replace("4222", str(broker)).replace("/tmp/try", str(directory))
    program = program.replace(". .venv/bin/activate", "true").replace("--initialize", f"--initialize --port {port}")
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    return subprocess.run(
        ["bash", "-c", program], cwd=CHECKOUT, env=environment, capture_output=True, text=True, timeout=120, check=False
    )


def test_the_gateway_without_a_model_works_as_it_stands(tmp_path: Path) -> None:
    ended = as_it_stands("X-Headrace-Session", tmp_path)

    assert "x-headrace-version-set" in ended.stdout.lower(), ended.stdout + ended.stderr
    assert "data: [DONE]" in ended.stdout
    assert "headrace_gateway_units_total{" in ended.stdout


def test_the_inbox_works_as_it_stands(tmp_path: Path) -> None:
    ended = as_it_stands("grep 'window sealed'", tmp_path)

    assert '"taken":1,"repeated":0,"refused":[]' in ended.stdout, ended.stdout + ended.stderr
    assert '"taken":1,"repeated":1,"refused":[{"index":2,' in ended.stdout
    assert '"event":"window sealed"' in ended.stdout
    assert 'headrace_gateway_inbox_unsealed_events{campaign="slogans"} 0.0' in ended.stdout


def test_a_stream_is_read_as_it_stands(tmp_path: Path) -> None:
    ended = as_it_stands("nats-server", tmp_path)

    taken = 'headrace_gateway_inbox_events_total{campaign="slogans",outcome="taken"} 2.0'
    assert taken in ended.stdout, ended.stdout + ended.stderr
    assert 'outcome="repeated"} 1.0' in ended.stdout
    assert "it must be JSON: expected" in ended.stdout
    assert "ORDERS     4" in ended.stdout


def test_batches_work_as_they_stand(tmp_path: Path) -> None:
    ended = as_it_stands("client.batches.create", tmp_path)

    assert "completed BatchRequestCounts(completed=3, failed=0, total=3)" in ended.stdout, ended.stdout + ended.stderr
    assert ended.stdout.count('"status_code":200') == 3
    assert '"output_file_id":"file-' in ended.stdout
    assert 'headrace_gateway_batch_lines_total{outcome="completed"} 3.0' in ended.stdout
    assert "assistant        0      0        0       -" in ended.stdout


def test_the_erasure_works_as_it_stands(tmp_path: Path) -> None:
    ended = as_it_stands("headrace erase", tmp_path)

    told = ("Nothing of erasure 1 is left in this store.", '"taken":0,"repeated":1', "No file has it.")
    assert [one for one in told if one not in ended.stdout] == [], ended.stdout + ended.stderr
    assert f"{tmp_path}/erasure/store/handoff/inbox_events/slogans-w000001/parts" in ended.stdout, "Bob's text is there"


@pytest.mark.parametrize("block", of("yaml"))
def test_a_yaml_block_loads_as_the_file_that_it_is_of(block: Block, tmp_path: Path) -> None:
    check = block.note.removeprefix("check: ")
    if block.note.startswith("unchecked: "):
        yaml.safe_load(block.text)
    elif check == "dagster.yaml":
        _check_dagster_yaml(yaml.safe_load(block.text))
    elif check == "nodes":
        file = tmp_path / "fleet.yaml"
        file.write_text(block.text)
        assert read_fleet_file(file).nodes
    else:
        kind = check.removeprefix("part of ")
        file = tmp_path / f"{kind}.yaml"
        file.write_text(block.text if kind == check else _put_into(kind, block.text))
        assert _LOADERS[kind](file)


@pytest.mark.parametrize("block", of("python"))
def test_a_python_block_compiles_and_imports_what_exists(block: Block) -> None:
    tree = ast.parse(block.text, block.label)
    for statement in ast.walk(tree):
        if isinstance(statement, ast.Import):
            for one in statement.names:
                importlib.import_module(one.name)
        elif isinstance(statement, ast.ImportFrom):
            module = importlib.import_module(statement.module or "")
            names = [one.name for one in statement.names if one.name != "*" and not hasattr(module, one.name)]
            # What is left are modules within it, or mistakes.
            assert [one for one in names if importlib.util.find_spec(f"{module.__name__}.{one}") is None] == []


def test_python_blocks_use_no_name_that_they_do_not_define(tmp_path: Path) -> None:
    for number, block in enumerate(one for one in ALL if one.language == "python"):
        (tmp_path / f"block{number}.py").write_text(f"# {block.label}\n{block.text}")
    ruff = [sys.executable, "-m", "ruff", "check", "--isolated", "--no-cache", "--select", "F821", str(tmp_path)]
    checked = subprocess.run(ruff, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout


@pytest.mark.parametrize("block", of("toml"))
def test_a_toml_block_is_toml(block: Block) -> None:
    assert tomllib.loads(block.text)


def _without_placeholders(words: list[str]) -> list[str]:
    """A word in capitals stands for any value: here for one that options of every kind take."""
    return ["1" if re.fullmatch(r"[A-Z][A-Z_.]*", word) else word for word in words]


def _put_into(kind: str, part: str) -> str:
    given = yaml.safe_load(part)
    # No service in the checkout hears; the page about calls has one.
    heard = next(block.text for block in ALL if block.note == "check: service" and "hearing:" in block.text)
    whole = yaml.safe_load((CHECKOUT / _WHOLE[kind]).read_text() if kind in _WHOLE else heard)
    if kind == "campaign" and "roles" in given:
        whole = {key: value for key, value in whole.items() if key not in _ONE_WRITER}
    return yaml.safe_dump({**whole, **given}, sort_keys=False)


def _check_dagster_yaml(content: dict[str, Any]) -> None:
    """The classes that it names exist, and take the settings that it gives them."""
    from dagster._config import process_config, resolve_to_config_type

    for section in ("run_coordinator", "run_launcher"):
        if named := content.get(section):
            found = getattr(importlib.import_module(named["module"]), named["class"])
            result = process_config(resolve_to_config_type(found.config_type()), named.get("config", {}))
            assert result.success, result.errors
