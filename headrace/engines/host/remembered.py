"""What a host measured of its models, in a small file beside its socket, for the host that comes after it.

A figure that is lost is measured anew, so a file that cannot be read, or written, is said in the log and no more.
"""

import json
import logging
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from headrace.engines.host.copies import Figures
from headrace.errors import HeadraceError
from headrace.store.small_objects import Record
from headrace.store.whole_files import renamed_when_whole

_log = logging.getLogger(__name__)
# An edit of an engine's code makes other models of all that it opens: the oldest are forgotten.
_NUM_MODELS_MAX = 500
_FIGURES = Record("Figures of models", dict[str, Figures])


class Remembered:
    def __init__(self, socket_file: Path) -> None:
        self.file = Path(f"{socket_file}.models.json")
        self._written: Mapping[str, Figures] = {}

    def read(self) -> dict[str, Figures]:
        """By key; nothing if there is no such file, or it is damaged."""
        try:
            found = _FIGURES.checked(self.file.read_bytes())
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            _log.warning("what earlier hosts measured is forgotten: %s cannot be read (%s)", self.file, error)
            return {}
        self._written = found
        return found

    def write(self, figures: Mapping[str, Figures]) -> None:
        """All or nothing. Args: figures: by key, the latest last."""
        if figures == self._written:
            return
        latest = dict(list(figures.items())[-_NUM_MODELS_MAX:])
        try:
            with renamed_when_whole(self.file, overwrite=True) as partial:
                partial.write_text(json.dumps({key: asdict(one) for key, one in latest.items()}))
        except (OSError, HeadraceError) as error:
            _log.warning("what was measured is not remembered: %s", error)
        else:
            self._written = dict(figures)
