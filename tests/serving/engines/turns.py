"""Turns for tests of serving engines: what a test does not mention is plain and valid."""

from typing import Any

from headrace.engines.base import Message, Turn


def make_turn(text: str = "What is a flume?", **changes: Any) -> Turn:
    settings: dict[str, Any] = {
        "unit": "unit-1",
        "messages": (Message(role="user", content=text),),
        "temperature": 0.7,
        "top_p": 0.9,
        "max_tokens": 40,
        "seed": 2**40 + 3,
    }
    return Turn(**(settings | changes))
