"""Turns a tag's text into a bounded value, or raises `InvalidNeeds`: no tag crashes a daemon or admits too much."""

import math
import re
from decimal import Decimal

from headrace.errors import InvalidInput
from headrace.placement.demand import WHOLE, Gang
from headrace.placement.gpu_models import short_model

# Far above any fleet; they limit sums and JSON, not users.
NUM_GPUS_MAX = 100_000
CPU_MILLI_MAX = 1_000_000_000
MEMORY_MIB_MAX = 1_000_000_000
EXPECTED_SECONDS_MAX = 100_000_000
NAME_LENGTH_MAX = 200
NUM_NAMES_MAX = 100

# ASCII digits only, no sign, no exponent, no underscore: `int` and `float` accept more, which nobody means here.
_NUMBER = re.compile(r"[0-9]{1,12}(\.[0-9]{1,12})?|\.[0-9]{1,12}")
_NAME = re.compile(r"[\w./:@+-]+( [\w./:@+-]+)*")
_SHOWN_LENGTH_MAX = 60


class InvalidNeeds(InvalidInput):
    """A run asks for something unreadable, or for something that its steps cannot have together. A retry fails too."""


class TagValue:
    """The text of one tag and its owner; each reader names what was wanted."""

    def __init__(self, tag: str, text: str, carrier: str) -> None:
        self.tag = tag
        self.text = text.strip()
        self.carrier = carrier

    def gpu_milli(self) -> int:
        """Thousandths of GPUs, a share rounded up: a multiple of 1000, or less than 1000."""
        wanted = "a whole number of GPUs or a share of one, as 4 or 0.5"
        number = self._number(NUM_GPUS_MAX, wanted)
        if number > 1 and number != int(number):
            raise self._wanted(wanted)
        return math.ceil(number * WHOLE)

    def milli(self) -> int:
        """Thousandths of CPUs, rounded up."""
        return math.ceil(self._number(CPU_MILLI_MAX // 1000, "a number of CPUs, as 8 or 0.5") * 1000)

    def mib(self) -> int:
        return self._whole(MEMORY_MIB_MAX, "a whole number of MiB, as 16384")

    def seconds(self) -> float:
        """0: unknown."""
        return float(self._number(EXPECTED_SECONDS_MAX, "a number of seconds, as 3600"))

    def models(self) -> frozenset[str]:
        wanted = "names of GPU models, as H100|A100"
        models = [short_model(part) for part in re.split(r"[|,]", self.text)]
        if None in models or len(self.text) > 1000:
            raise self._wanted(wanted)
        return frozenset(model for model in models if model)

    def gang(self) -> Gang:
        match self.text.lower():
            case "node":
                return "node"
            case "any":
                return "any"
        raise self._wanted("node (all GPUs on one) or any (across nodes)")

    def flag(self) -> bool:
        match self.text.lower():
            case "true":
                return True
            case "false":
                return False
        raise self._wanted("true or false")

    def name(self) -> str:
        if len(self.text) > NAME_LENGTH_MAX or not _NAME.fullmatch(self.text):
            raise self._wanted(f"a name of at most {NAME_LENGTH_MAX} letters, digits and ._-/:@+")
        return self.text

    def names(self) -> frozenset[str]:
        """Several, divided by `|`; as many as a version set may have members."""
        names = [part.strip() for part in self.text.split("|")]
        if len(names) > NUM_NAMES_MAX or any(
            len(name) > NAME_LENGTH_MAX or not _NAME.fullmatch(name) for name in names
        ):
            raise self._wanted(f"at most {NUM_NAMES_MAX} names of letters, digits and ._-/:@+, divided by |")
        return frozenset(names)

    def _number(self, most: int, wanted: str) -> Decimal:
        if not _NUMBER.fullmatch(self.text):
            raise self._wanted(wanted)
        number = Decimal(self.text)
        if number > most:
            raise self._wanted(f"{wanted}, at most {most:,}")
        return number

    def _whole(self, most: int, wanted: str) -> int:
        number = self._number(most, wanted)
        if number != int(number):
            raise self._wanted(wanted)
        return int(number)

    def _wanted(self, wanted: str) -> InvalidNeeds:
        shown = self.text if len(self.text) <= _SHOWN_LENGTH_MAX else f"{self.text[:_SHOWN_LENGTH_MAX]}…"
        return InvalidNeeds(f"Tag {self.tag} of {self.carrier} is {shown!r}, but must be {wanted}.")
