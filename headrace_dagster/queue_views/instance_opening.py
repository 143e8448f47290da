"""Opens Dagster's instance for a command that only reads: never creates one."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import dagster as dg
import dagster._check as check
import yaml
from sqlalchemy.exc import SQLAlchemyError

from headrace.errors import InvalidInput
from headrace.owners import owner_name

_SETTINGS = "dagster.yaml"
# The rest, what Dagster expected, would fill the screen.
_CONFIG_ERROR = re.compile(r"Error 1: (.*?\.) Expected", re.DOTALL)


@contextmanager
def open_instance(dagster_home: str | None, *, with_coordinator: bool = True) -> Iterator[dg.DagsterInstance]:
    """The instance of a DAGSTER_HOME, with its coordinator unless it is not wanted, which saves its import.

    Without a dagster.yaml Dagster would create an empty instance there, so that case is refused.

    Raises:
        InvalidInput: no directory is named, there is no instance, its settings are wrong, or this user may not use its
            files; also inside the block, where its databases do not answer.
    """
    try:
        with _opened(dagster_home, with_coordinator=with_coordinator) as instance:
            yield instance
    except SQLAlchemyError as error:
        # The statement, which the rest tells, means nothing to whoever only looks.
        told = str(getattr(error, "orig", None) or error).strip().splitlines()[0].rstrip(".")
        raise InvalidInput(
            f"The databases of Dagster's instance at {dagster_home} do not answer ({told}). Is it SQLite's, and not "
            f"yours ({dagster_home} belongs to {owner_name(Path(str(dagster_home)).expanduser())})? SQLite must write "
            "there even to read: call the command as a user who may."
        ) from error


def _opened(dagster_home: str | None, *, with_coordinator: bool) -> dg.DagsterInstance:
    if not dagster_home:
        raise InvalidInput("DAGSTER_HOME is not set: set it to the directory of your instance's dagster.yaml.")
    directory = Path(dagster_home).expanduser()
    if not _is_file(directory / _SETTINGS):
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


def _is_file(settings: Path) -> bool:
    """Raises: InvalidInput: it is unknown, or the file may not be read."""
    try:
        if not settings.is_file():
            return False
        settings.open("rb").close()
    except PermissionError as error:
        raise InvalidInput(
            f"You may not read {settings}, which belongs to {owner_name(settings)}: call the command as that user, or "
            "have it give you the right to read there."
        ) from error
    except OSError:
        # A missing part of the path was told by `is_file`; whatever this is, opening the instance tells it.
        return True
    return True


def _reason(error: Exception) -> str:
    text = str(error).strip()
    wrong = _CONFIG_ERROR.search(text)
    lines = (wrong[1] if wrong else text).splitlines()
    # The YAML parser's first line says what is wrong, its last line where.
    told = f"{lines[0]} {lines[-1].strip()}" if isinstance(error, yaml.YAMLError) else lines[0]
    return told.removeprefix("Failure condition: ").rstrip(".")
