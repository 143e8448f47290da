"""The code blocks of the documentation, and the calls in those that a shell would take."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

CHECKOUT = Path(__file__).parents[2]
PAGES = [CHECKOUT / "README.md", CHECKOUT / "CONTRIBUTING.md", *sorted((CHECKOUT / "docs").rglob("*.md"))]

_FENCE = re.compile(r"(```+)(\w*)")
_NOTE = re.compile(r"<!-- ((?:un)?check(?:ed)?: .*) -->")
_HEREDOC = re.compile(r"<<'?(\w+)'?")
_ASSIGNED = re.compile(r"[A-Za-z_]\w*=.*", re.DOTALL)
_REDIRECTS = {">", ">>", "<", "<<<"}


@dataclass(frozen=True, kw_only=True)
class Block:
    """A fenced block. `note`: what the comment before it says of how it is checked, or why it is not."""

    page: Path
    line: int
    language: str
    text: str
    note: str

    @property
    def label(self) -> str:
        return f"{self.page.relative_to(CHECKOUT)}:{self.line}"


def blocks(page: Path) -> Iterator[Block]:
    note, opened, lines = "", None, list[str]()
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), start=1):
        if opened:
            if line == opened[1]:
                yield Block(page=page, line=opened[0], language=opened[2], text="\n".join(lines) + "\n", note=note)
                opened, note, lines = None, "", []
            else:
                lines.append(line)
        elif fence := _FENCE.fullmatch(line):
            opened = number, fence[1], fence[2]
        elif found := _NOTE.fullmatch(line):
            note = found[1]
        elif line:
            note = ""
    assert not opened, f"{page}: the block in line {opened[0]} has no end"


def prose(page: Path) -> str:
    """The page without its blocks, with as many lines."""
    kept, is_inside = list[str](), False
    for line in page.read_text(encoding="utf-8").splitlines():
        if _FENCE.fullmatch(line):
            is_inside = not is_inside
        kept.append("" if is_inside or _FENCE.fullmatch(line) else line)
    return "\n".join(kept)


def commands(block: Block) -> list[list[str]]:
    """Each simple command of a block as its words, without redirections and variables before it."""
    if block.language == "console":
        return [words for line in block.text.splitlines() if line.startswith("$ ") for words in _split(line[2:])]
    return [words for line in _lines(block.text) for words in _split(line)]


def _lines(text: str) -> Iterator[str]:
    """Lines as a shell reads them: continued ones joined, the text of a here-document left out."""
    ending = None
    for line in text.replace("\\\n", " ").splitlines():
        if ending:
            ending = None if line == ending else ending
            continue
        if heredoc := _HEREDOC.search(line):
            ending, line = heredoc[1], line[: heredoc.start()]
        yield line


def _split(line: str) -> Iterator[list[str]]:
    reader = shlex.shlex(line, posix=True, punctuation_chars=True)
    reader.whitespace_split = True
    words, is_target = list[str](), False
    for token in [*reader, ";"]:
        if token in _REDIRECTS:
            is_target = True
        elif is_target:
            is_target = False
        elif token and not set(token) - set("();<>|&"):
            while words and _ASSIGNED.fullmatch(words[0]):
                words.pop(0)
            if words:
                yield words
            words = []
        else:
            words.append(token)
