"""A user's project for `headrace check`: a readable file of each kind, and what the command says of it."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jsonschema
from typer.testing import Result

from tests.command_line.builders import CHECKOUT, run

CAMPAIGN = """\
name: tales
model: tiny
num_shards: 10
prompts: {files: in/tales.jsonl, template: "Tell of {thing}.", per_shard: 20}
prompt_template: {system: "You tell tales.", user: "{text}"}
decoding: {temperature: 0.7, top_p: 0.9, max_new_tokens: 12}
engine: {name: echo}
rollout: {gate: {pass_rate_margin: 0.3}}
"""
SERVICE = """\
name: desk
chain: [writer]
roles:
  writer: {model: vendor, version: "1", registered: false, engine: {name: echo}, decoding: &one
    {temperature: 0, top_p: 1, max_new_tokens: 8}}
rollout: {steps: [{weight: 0.1, soak_seconds: 600, cap: 100}, 0.5]}
"""
CORPUS = """\
name: notes
files: [in/notes.jsonl]
columns: {term: title, text: body}
prompt: {user: "Explain {term}."}
"""
# bf16, the default, is a warning on a CPU that has none.
RECIPE = "name: define\nmodel: tiny\nsteps: 10\nbatch: 4\nlearning_rate: 1.0e-3\nprecision: fp32\n"
_UNSET = dict.fromkeys(
    f"HEADRACE_{name}"
    for name in ("CORPUS", "IMAGES", "RECIPES", "CAMPAIGNS", "SERVICES", "ENGINE", "BASE_MODEL", "TIMEZONE")
)


class Project:
    """A directory as a user's project has it, with a readable file of each kind."""

    def __init__(self, root: Path, base_model: Path) -> None:
        self.root = root
        self.write("pyproject.toml", "[tool.dg]\ndirectory_type = 'project'\n")
        self.write(".env", f"HEADRACE_SERVICES={root}/live\nHEADRACE_BASE_MODEL={base_model}\n")
        self.campaign = self.write("resources/campaigns/tales.yaml", CAMPAIGN)
        self.recipe = self.write("resources/recipes/define.yaml", RECIPE)
        self.corpus = self.write("resources/corpus.yaml", CORPUS)
        self.service = self.write("live/desk.yaml", SERVICE)
        self.write(".headrace/in/tales.jsonl", "".join(json.dumps({"thing": f"t{n}"}) + "\n" for n in range(300)))
        notes = [{"title": f"note {n}", "body": f"What stands in note {n}."} for n in range(60)]
        self.write(".headrace/in/notes.jsonl", "".join(json.dumps(note) + "\n" for note in notes))

    def write(self, path: str, text: str) -> Path:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        return file

    def check(self, *arguments: str | Path, env: Mapping[str, str] | None = None) -> Result:
        return run("check", *arguments, env={**_UNSET, **(env or {})})

    def body(self, *arguments: str | Path) -> dict[str, Any]:
        body = json.loads(self.check("--json", *arguments).stdout)
        jsonschema.validate(body, json.loads((CHECKOUT / "docs/schemas/check.schema.json").read_text()))
        return body

    def one(self, file: Path, *arguments: str) -> dict[str, Any]:
        (checked,) = self.body(file, *arguments)["files"]
        return checked


def said(checked: dict[str, Any], check: str, level: str) -> str:
    return "\n".join(one["sentence"] for one in checked["findings"] if (one["check"], one["level"]) == (check, level))
