"""Dagster's instance as a command finds it: looked at, never made."""

import re
from pathlib import Path

import dagster as dg
import dagster._check as check
import yaml

from headrace.errors import InvalidInput

_SETTINGS = "dagster.yaml"
# What Dagster expected instead would fill the screen.
_CONFIG_ERROR = re.compile(r"Error 1: (.*?\.) Expected", re.DOTALL)


def open_instance(dagster_home: str | None) -> dg.DagsterInstance:
    """The instance of a DAGSTER_HOME, its coordinator built.

    Without its dagster.yaml, Dagster would make an empty instance there; so that is refused here.

    Raises:
        InvalidInput: no directory is named, no instance is there, or its settings are wrong.
    """
    if not dagster_home:
        raise InvalidInput("DAGSTER_HOME is not set: set it to the directory of your instance's dagster.yaml.")
    directory = Path(dagster_home).expanduser()
    if not (directory / _SETTINGS).is_file():
        raise InvalidInput(
            f"DAGSTER_HOME is {dagster_home}, where there is no {_SETTINGS}: set it to the directory that holds yours."
        )
    try:
        instance = dg.DagsterInstance.from_config(str(directory.resolve()))
        _ = instance.run_coordinator
    except (dg.DagsterError, check.CheckError, yaml.YAMLError, OSError, ImportError) as error:
        raise InvalidInput(
            f"Dagster's instance at {dagster_home} does not open ({_reason(error)}): correct its {_SETTINGS}."
        ) from error
    return instance


def _reason(error: Exception) -> str:
    text = str(error).strip()
    wrong = _CONFIG_ERROR.search(text)
    lines = (wrong[1] if wrong else text).splitlines()
    # The parser of YAML says what in the first line, and where in the last.
    told = f"{lines[0]} {lines[-1].strip()}" if isinstance(error, yaml.YAMLError) else lines[0]
    return told.removeprefix("Failure condition: ").rstrip(".")
