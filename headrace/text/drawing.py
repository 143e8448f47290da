"""What rich draws on a terminal, for texts that anybody may have written.

Beside `headrace.text.terminal`, since rich costs a command's start more than everything else it imports.
"""

from typing import Any

from rich.console import Console
from rich.text import Text

from headrace.text.visible import visible_lines


class Terminal(Console):
    """A console for which strings are text: neither markup nor emoji codes nor escape sequences."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(markup=False, emoji=False, highlight=False, **settings)

    def render_str(self, text: str, **settings: Any) -> Text:
        return super().render_str(visible_lines(text), **settings)


class TerminalText(Text):
    """Text with styles of ours over letters of anybody's."""

    def __init__(self, text: str = "", style: str = "", **settings: Any) -> None:
        super().__init__(visible_lines(text), style, **settings)

    def append(self, text: Text | str, style: Any = None) -> "TerminalText":
        super().append(visible_lines(text) if isinstance(text, str) else text, style)
        return self
