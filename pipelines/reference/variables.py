"""Environment variables: a project's settings, options that a variable may give, and those that code reads itself."""

import re

from headrace import settings
from pipelines.reference.commands import commands
from pipelines.reference.constants import constants
from pipelines.reference.markdown import code, page, prose, table

PATTERN = r"HEADRACE_[A-Z_]+"
# Read by the libraries below; Headrace passes them on, and its errors repeat none of their values.
_LIBRARIES = {
    "AWS_ENDPOINT_URL": "The S3 server of `s3://` stores.",
    "AWS_ACCESS_KEY_ID": "Its credentials.",
    "AWS_SECRET_ACCESS_KEY": "Its credentials.",
    "AWS_REGION": "Its region.",
    "AWS_ALLOW_HTTP": "`true`: the address may begin with `http://`.",
    "CUDA_VISIBLE_DEVICES": "Set for each run by the launcher to the GPUs that it was given; empty for a run without.",
    "DAGSTER_HOME": "The instance's directory; `make setup` writes it into `.env`, which `dg`, `make dev` and every "
    "`headrace` command take before the environment's: `DAGSTER_HOME=/other headrace queue` shows the instance of the "
    "`.env`. `make` puts the checkout's own back there: a second instance wants a second checkout.",
    "HF_HUB_OFFLINE": "`1`, the default in our own processes: nothing waits on a model hub.",
    "MLFLOW_TRACKING_USERNAME, MLFLOW_TRACKING_PASSWORD, MLFLOW_TRACKING_TOKEN": "An MLflow server's credentials.",
}


def variables_page() -> str:
    return page(
        "Environment variables",
        "In a project's directories its `.env` counts before the environment, for `headrace` commands as for `dg` and "
        "the runs; outside a project only the environment does. An option of a command counts before both. An empty "
        "variable counts as not set. `headrace check` names a "
        "value that means nothing, and a variable that is nearly one of these.",
        "## A project",
        _settings_table(),
        "## Options",
        "Each of these options may be given by a variable instead.",
        table(["variable", "option", "meaning"], _option_rows()),
        "## Others",
        table(["variable", "meaning"], _constant_rows()),
        "## Of the libraries below",
        table(
            ["variable", "meaning"], [[", ".join(map(code, n.split(", "))), prose(t)] for n, t in _LIBRARIES.items()]
        ),
    )


def _settings_table() -> str:
    """The table of `headrace.settings`, and the sentences below it."""
    lines = (settings.__doc__ or "").splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| ")]
    below = " ".join(lines[max(i for i, line in enumerate(lines) if line.startswith("|")) + 1 :]).strip()
    made = [[", ".join(map(code, re.split(r", ", name))), prose(text), prose(value)] for name, text, value in rows[1:]]
    return f"{table(rows[0], made)}\n\n{prose(below)}"


def _option_rows() -> list[list[str]]:
    """A variable that several programs take is one row."""
    rows: dict[tuple[str, str, str], list[str]] = {}
    for words, command, _ in commands():
        for one in command.params:
            if one.envvar and not getattr(one, "hidden", False):
                program = words if words.startswith("python") else " ".join(words.split()[:2])
                rows.setdefault((str(one.envvar), one.opts[0], one.help or ""), []).append(program)
    return [
        [code(variable), f"{code(option)} of {', '.join(map(code, dict.fromkeys(programs)))}", prose(text)]
        for (variable, option, text), programs in sorted(rows.items())
    ]


def _constant_rows() -> list[list[str]]:
    known = set(re.findall(PATTERN, settings.__doc__ or ""))
    rest = {one.value: one.text for one in constants(PATTERN) if one.value not in known}
    return [[code(name), prose(text)] for name, text in sorted(rest.items())]
