"""Runs one of this room's modules in a process of its own, since the graph is made from the corpus file."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

CHECKOUT = Path(__file__).parents[2]


def told_by(module: str, home: Path, base_model: Path, corpus: dict[str, Any]) -> dict[str, Any]:
    """What the module prints, with a corpus file of glosses and these keys."""
    body = {
        "name": "glosses",
        "files": ["corpus/{shard}.jsonl"],
        "columns": {"term": "term", "category": "category", "text": "gloss"},
        "rules": {"set": "short"},
        "prompt": {"user": 'Define the {category} "{term}".'},
        "dedup": {"num_buckets": 2},
    }
    (home / "corpus.yaml").write_text(yaml.safe_dump(body | corpus))
    own = {name: value for name, value in os.environ.items() if not name.startswith(("HEADRACE_", "DAGSTER_"))}
    given = {"CORPUS": str(home / "corpus.yaml"), "HOME": str(home), "BASE_MODEL": str(base_model)}
    done = subprocess.run(
        [sys.executable, "-m", f"tests.definitions.{module}"],
        cwd=CHECKOUT,
        env=own | {f"HEADRACE_{name}": value for name, value in given.items()},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)
