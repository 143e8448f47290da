"""What a server's list of models says of how soon it could answer: `come_seconds`, beside OpenAI's fields.

Gateways whose models an engine host holds say it of their service. Whoever does not say it is taken to have its model.
"""

import json
from math import isfinite
from typing import Any

COME_SECONDS = "come_seconds"
# Of a list of models: some services offer thousands.
LIST_BYTES_MAX = 1_048_576
# Longer than any model takes to come: a server that claims more would get no turn for as long.
_SECONDS_MAX = 3600.0


def come_seconds_in(raw: bytes, model: str) -> float | None:
    """Seconds until that model could begin to answer; None: the list does not say."""
    try:
        body: Any = json.loads(raw)
        said = [one[COME_SECONDS] for one in body["data"] if one.get("id") == model and COME_SECONDS in one]
    except (ValueError, RecursionError, LookupError, TypeError, AttributeError):
        return None
    known = [float(one) for one in said if isinstance(one, int | float) and not isinstance(one, bool)]
    return min((min(one, _SECONDS_MAX) for one in known if isfinite(one) and one >= 0), default=None)
