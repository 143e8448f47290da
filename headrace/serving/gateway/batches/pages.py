"""Pages of lists, as OpenAI's clients ask for them: `after`, `limit`, `order`, and what else a path takes.

A name says when it was made, so a page goes on after a name whether that is still there or not.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl

from headrace.serving.gateway.refusals import invalid

_NUM_FIELDS_MAX = 32


@dataclass(frozen=True, kw_only=True)
class Page:
    """`after`: the last one of the page before, or empty."""

    after: str
    limit: int
    is_ascending: bool
    others: dict[str, str]


def page_of(query: bytes, *, limit: int, limit_max: int) -> Page:
    """Args: limit: without one in the query. Raises: Refusal."""
    try:
        pairs = parse_qsl(query.decode("ascii"), keep_blank_values=True, max_num_fields=_NUM_FIELDS_MAX)
    except ValueError:
        raise invalid("The URL's query cannot be read.", code="invalid_query") from None
    fields = dict(pairs)
    if len(fields) < len(pairs):
        raise invalid("The URL's query may have each of its fields once.", code="invalid_query")
    written = fields.pop("limit", None)
    if written is not None:
        if not (written.isascii() and written.isdecimal() and len(written) < 7 and 1 <= int(written) <= limit_max):
            raise invalid(f"limit must be a whole number from 1 to {limit_max}.", param="limit")
        limit = int(written)
    order = fields.pop("order", "desc")
    if order not in ("asc", "desc"):
        raise invalid("order must be asc or desc.", param="order")
    return Page(after=fields.pop("after", ""), limit=limit, is_ascending=order == "asc", others=fields)


def listed(names: Sequence[str], page: Page, read: Callable[[str], dict[str, Any] | None]) -> dict[str, Any]:
    """The list object of a page.

    Args:
        names: ascending.
        read: gives an object, or None where there is none (any more) or it is not wanted.
    """
    ordered = names if page.is_ascending else names[::-1]
    if page.after:
        ordered = [name for name in ordered if (name > page.after if page.is_ascending else name < page.after)]
    found: list[dict[str, Any]] = []
    has_more = False
    for name in ordered:
        one = read(name)
        if one is None:
            continue
        if len(found) == page.limit:
            has_more = True
            break
        found.append(one)
    ends = {"first_id": found[0]["id"], "last_id": found[-1]["id"]} if found else {"first_id": None, "last_id": None}
    return {"object": "list", "data": found, **ends, "has_more": has_more}
