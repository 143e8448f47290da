"""The fields of a request's body, read by hand: every request passes here, and a message names the field, its value's
kind and the remedy, never the value, which may be a prompt.
"""

import json
from collections.abc import Mapping
from typing import Any

from headrace.serving.gateway.refusals import Refusal, invalid


def object_of(raw: bytes) -> dict[str, Any]:
    try:
        body = _DECODER.decode(raw.decode())
    except (ValueError, RecursionError) as error:
        reason = "nested too deep" if isinstance(error, RecursionError) else str(error)
        raise invalid(f"The request's body must be JSON in UTF-8: {reason}.", code="invalid_json") from None
    if not isinstance(body, dict):
        raise invalid(f"The request's body must be a JSON object, got {_kind(body)}.", code="invalid_json")
    return body


def refuse_unless_nothing(body: Mapping[str, Any], asking_for_nothing: Mapping[str, tuple[Any, ...]]) -> None:
    """Args: asking_for_nothing: field → the values, beside null, with which it requests nothing that is missing here.

    Raises: Refusal: a field has another value.
    """
    # Most requests lack all of these fields.
    for field in body.keys() & asking_for_nothing.keys():
        if not _is_one_of(body[field], asking_for_nothing[field]):
            raise invalid(
                f"This service cannot honour {field}, and leaving it out would change the answer; send the request "
                "without it.",
                param=field,
                code="unsupported_parameter",
            )


def _is_one_of(value: Any, values: tuple[Any, ...]) -> bool:
    # In Python false equals 0 and true equals 1; in JSON they differ.
    is_flag = isinstance(value, bool)
    return value is None or any(value == one and is_flag == isinstance(one, bool) for one in values)


def number(body: Mapping[str, Any], field: str, low: float, high: float, *, above: bool = False) -> float | None:
    value = body.get(field)
    if value is None:
        return None
    if (
        not isinstance(value, int | float)
        or isinstance(value, bool)
        or not low <= value <= high
        or (above and value == low)
    ):
        raise wrong(
            field, f"a number {'above' if above else 'from'} {low} {'and at most' if above else 'to'} {high}", value
        )
    return float(value)


def whole(body: Mapping[str, Any], field: str, low: int, high: int) -> int | None:
    value = body.get(field)
    if value is None:
        return None
    if isinstance(value, float) and value.is_integer():
        # JSON has one kind of number: 5.0 is a whole one.
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise wrong(field, f"a whole number from {low} to {high}", value)
    return value


def flag(body: Mapping[str, Any], field: str, where: str = "") -> bool:
    value = body.get(field)
    if value is None:
        return False
    if not isinstance(value, bool):
        raise wrong(where or field, "true or false", value)
    return value


def encodable(where: str, text: str) -> str:
    """JSON can spell a lone surrogate, which is not text: it could be neither logged nor sent on."""
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise invalid(
            f"{where} must be Unicode text, got a lone surrogate at character {error.start}.", param=where
        ) from None
    return text


def wrong(field: str, wanted: str, got: Any) -> Refusal:
    """Names the kind of the wrong value, not the value: prompts do not belong into logs or error trackers."""
    if got is None:
        return invalid(f"{field} is missing; it must be {wanted}.", param=field)
    return invalid(f"{field} must be {wanted}, got {_kind(got)}.", param=field)


def _kind(value: Any) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return str(value).lower()
        case int() | float():
            return f"{value:.6g}" if abs(value) < 1e300 else "a very large number"
        case str():
            return f"a text of {len(value)} characters"
        case list():
            return f"a list of {len(value)}"
    return "an object"


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON number")


# `json.loads` with an argument would build a decoder each time.
_DECODER = json.JSONDecoder(parse_constant=_refuse_constant)
