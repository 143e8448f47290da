"""How a request tells a host for whom it asks: `X-Headrace-Class`, and `X-Headrace-Tenants` as a form's fields.

Tenants decide turns and nothing else, so a long name is told by its digest, and of many the largest parts alone.
"""

import hashlib
import math
from collections.abc import Mapping
from urllib.parse import parse_qsl, quote, urlencode

from headrace.engines.asker import Asker
from headrace.errors import InvalidInput
from headrace.fairness import CLASSES, NOBODY, WorkClass

CLASS, TENANTS = "X-Headrace-Class", "X-Headrace-Tenants"
_CLASSES: dict[str, WorkClass] = {one: one for one in CLASSES}
# A header's line has 8 KiB at most, and each character of a name up to three bytes.
_NUM_TENANTS_MAX, _NAME_BYTES_MAX = 32, 96
# A tenant's part is at most one turn, and weights are within a million of each other.
_COST_MAX = 1e9


def headers_of(asker: Asker) -> dict[str, str]:
    largest = sorted(asker.tenants.items(), key=lambda one: (-one[1], one[0]))[:_NUM_TENANTS_MAX]
    headers = {CLASS: asker.work_class}
    if dict(largest) != NOBODY:
        headers[TENANTS] = urlencode({_short(tenant): f"{cost:.9g}" for tenant, cost in largest})
    return headers


def asker_in(headers: Mapping[str, str]) -> Asker:
    """Raises: InvalidInput: the request says what is no class of work, or no tenants."""
    word = headers.get(CLASS, "batch")
    if (work_class := _CLASSES.get(word)) is None:
        known = f"{', '.join(CLASSES[:-1])} or {CLASSES[-1]}"
        raise InvalidInput(f"{CLASS} must be {known}, got {word[:40]!r}: leave it out for batch work.")
    return Asker(work_class=work_class, tenants=_tenants_in(headers[TENANTS]) if TENANTS in headers else NOBODY)


def _tenants_in(text: str) -> dict[str, float]:
    try:
        pairs = parse_qsl(text, keep_blank_values=True, strict_parsing=True, max_num_fields=_NUM_TENANTS_MAX)
        found = {tenant: float(cost) for tenant, cost in pairs}
    except ValueError:
        found = {}
    if not found or not all(math.isfinite(cost) and 0 < cost <= _COST_MAX for cost in found.values()):
        raise InvalidInput(
            f"{TENANTS} must be NAME=PART&…, at most {_NUM_TENANTS_MAX} of them, each part a number above 0 and up to "
            f"{_COST_MAX:g}, got {text[:80]!r}: leave it out where there are none."
        )
    return found


def _short(tenant: str) -> str:
    encoded = tenant.encode(errors="surrogatepass")
    return tenant if len(quote(encoded)) <= _NAME_BYTES_MAX else hashlib.sha256(encoded).hexdigest()
