"""Draws on a terminal with rich, for texts that anybody may have written.

Separate from `headrace.text.terminal`, since rich costs a command's start more than all its other imports.
"""

from typing import Any

from rich.console import Console
from rich.text import Text

from headrace.text.visible import visible_lines


class Terminal(Console):
    """A console that prints strings as text, without markup, emoji codes or escape sequences."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(markup=False, emoji=False, highlight=False, **settings)

    def render_str(self, text: str, **settings: Any) -> Text:
        return super().render_str(visible_lines(text), **settings)


class TerminalText(Text):
    """Text with our styles over anybody's letters."""

    def __init__(self, text: str = "", style: str = "", **settings: Any) -> None:
        super().__init__(visible_lines(text), style, **settings)

    def append(self, text: Text | str, style: Any = None) -> "TerminalText":
        super().append(visible_lines(text) if isinstance(text, str) else text, style)
        return self
