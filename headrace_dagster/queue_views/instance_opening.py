"""Opens Dagster's instance for a command that only reads: never creates one."""

import re
from pathlib import Path

import dagster as dg
import dagster._check as check
import yaml

from headrace.errors import InvalidInput

_SETTINGS = "dagster.yaml"
# The rest, what Dagster expected, would fill the screen.
_CONFIG_ERROR = re.compile(r"Error 1: (.*?\.) Expected", re.DOTALL)


def open_instance(dagster_home: str | None, *, with_coordinator: bool = True) -> dg.DagsterInstance:
    """The instance of a DAGSTER_HOME, with its coordinator unless it is not wanted, which saves its import.

    Without a dagster.yaml Dagster would create an empty instance there, so that case is refused.

    Raises:
        InvalidInput: no directory is named, there is no instance, or its settings are wrong.
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
        if with_coordinator:
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
    # The YAML parser's first line says what is wrong, its last line where.
    told = f"{lines[0]} {lines[-1].strip()}" if isinstance(error, yaml.YAMLError) else lines[0]
    return told.removeprefix("Failure condition: ").rstrip(".")
