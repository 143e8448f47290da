"""`headrace check` of roles that paint and speak: the doors of their engines, without what takes them seconds."""

import json
import os
import subprocess
import sys
from typing import Any

import pytest

from tests.command_line.checked_project import Project, said

PAINTER = """\
name: tales
num_shards: 1
prompts: {files: in/tales.jsonl, column: thing}
chain: [painter]
roles:
  painter: {model: brush, weights: brush, engine: {name: diffusers}, picture: {width: WIDTH, height: 64}}
"""
SPEAKER = """\
name: tales
num_shards: 1
prompts: {files: in/tales.jsonl, column: thing}
chain: [speaker]
roles:
  speaker: {model: hibari, version: "VERSION", registered: false, engine: {name: hibari}, speech: {voice: VOICE}}
"""
VAE = {"vae": ["diffusers", "AutoencoderKL"]}
TRANSFORMER = {"transformer": ["diffusers", "Transformer"]}


@pytest.fixture
def project(checked_project: Project) -> Project:
    return checked_project


def write_pipeline(project: Project, index: dict[str, Any], **parts: dict[str, Any]) -> None:
    project.write(".headrace/brush/model_index.json", json.dumps({"_class_name": "Pipeline"} | index))
    for name, config in parts.items():
        project.write(f".headrace/brush/{name}/config.json", json.dumps(config))


def test_a_painters_directory_is_a_pipeline_and_needs_no_tokenizer_at_its_top(project: Project) -> None:
    write_pipeline(project, {})
    project.campaign.write_text(PAINTER.replace("WIDTH", "64"))
    checked = project.one(project.campaign)
    assert said(checked, "model", "fail") == ""
    assert said(checked, "model", "ok").endswith("brush. Whether its parts load shows when a run opens Pipeline.")
    (project.root / ".headrace/brush/model_index.json").rename(project.root / ".headrace/brush/config.json")
    refusal = said(project.one(project.campaign), "model", "fail")
    assert refusal.startswith("roles.painter.weights: the model of 'painter' must be a pipeline of diffusers, got ")


@pytest.mark.parametrize(
    ("index", "parts", "multiple"),
    [
        (VAE, {"vae": {"block_out_channels": [1, 2, 3, 4]}}, 8),
        (VAE, {"vae": {"encoder_block_out_channels": [1] * 6}}, 32),
        (VAE | TRANSFORMER, {"vae": {"block_out_channels": [1, 2, 3, 4]}, "transformer": {"patch_size": 2}}, 16),
        (TRANSFORMER, {"transformer": {"patch_size": 4}}, 4),
        ({"vae": [None, None]} | TRANSFORMER, {"transformer": {"patch_size": [1, 2, 2]}}, 1),
    ],
)
def test_a_size_that_the_pipeline_cannot_paint_is_a_fault_of_the_file(
    project: Project, index: dict[str, Any], parts: dict[str, Any], multiple: int
) -> None:
    write_pipeline(project, index, **parts)
    project.campaign.write_text(PAINTER.replace("WIDTH", str(64 + multiple // 2)))
    refusal = said(project.one(project.campaign), "model", "fail")
    told = f"multiples of {multiple} pixels, got {64 + multiple // 2} x 64."
    assert refusal == (
        ""
        if multiple == 1
        else f"roles.painter.weights: Pipeline of 'painter' paints pictures whose width and height are {told}"
    )
    project.campaign.write_text(PAINTER.replace("WIDTH", str(64 + multiple)))
    assert said(project.one(project.campaign), "model", "fail") == ""


def test_what_files_do_not_tell_is_left_to_the_run_by_name(project: Project) -> None:
    write_pipeline(project, VAE, vae={"temporal": 3})
    project.campaign.write_text(PAINTER.replace("WIDTH", "61").replace("height: 64", "height: 64, scheduler: X"))
    told = "Whether its parts load and its scheduler fits them and it paints 61 x 64 pixels shows when a run opens Pipe"
    assert told in said(project.one(project.campaign), "model", "ok")


@pytest.mark.parametrize(
    ("version", "voice", "refusal"),
    [
        ("0.2.1", "heart", ""),
        (
            "0.1",
            "heart",
            "roles.speaker.engine: hibari-tts 0.2.1 is installed, and 'speaker' is of version 0.1. Its",
        ),
        ("0.2.1", "miller", "roles.speaker.engine: Engine 'hibari' has no voice 'miller'; it has heart, "),
        ("0.2.1", "emma", "roles.speaker.engine: Voice 'emma' of hibari is not in its package, and "),
    ],
)
def test_hibaris_version_and_voice_are_asked_as_a_run_asks(
    project: Project, monkeypatch: pytest.MonkeyPatch, version: str, voice: str, refusal: str
) -> None:
    pytest.importorskip("hibari", reason="the extra speech")
    monkeypatch.setenv("HIBARI_HOME", str(project.root))
    project.campaign.write_text(SPEAKER.replace("VERSION", version).replace("VOICE", voice))
    found = said(project.one(project.campaign), "engine", "fail")
    assert found.startswith(refusal)
    assert bool(found) is bool(refusal)


def test_no_library_of_the_engines_is_loaded_for_it(project: Project) -> None:
    write_pipeline(project, TRANSFORMER, transformer={"patch_size": 4})
    project.campaign.write_text(PAINTER.replace("WIDTH", "64"))
    speaking = project.write("resources/campaigns/said.yaml", SPEAKER.replace("VERSION", "1").replace("VOICE", "heart"))
    script = (
        "import sys\nfrom typer.testing import CliRunner\nfrom headrace.command_line.main import app\n"
        f"CliRunner().invoke(app, ['check', 'tales', {str(speaking)!r}])\n"
        "print(sorted({'torch', 'diffusers', 'transformers', 'onnxruntime', 'hibari'} & {*sys.modules}))"
    )
    ran = subprocess.run(
        [sys.executable, "-c", script], cwd=project.root, env={**os.environ}, capture_output=True, text=True, check=True
    )
    assert ran.stdout.strip() == "[]"
