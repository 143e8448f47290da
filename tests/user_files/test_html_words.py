"""Generated pages: an article of all kinds of blocks beside navigation. lxml says which words the article has."""

import re
from collections.abc import Iterator
from itertools import count
from random import Random

import pytest
from lxml.html import document_fromstring

from headrace.user_files.html_pages import page_of

WORD = re.compile(r"w\d+x")
_TAGS_WITHIN_A_LINE = (
    "abbr b blink bdi cite code data del dfn em font g-emoji i ins kbd label map mark marquee math meter noindex o:p "
    "output picture progress q ruby s slot small strike strong sub sup time tt u var x-term"
)
WITHIN_A_LINE = _TAGS_WITHIN_A_LINE.split()
AROUND = (
    "<header><nav><ul><li><a href='/'>Home</a></li><li><a href='/in'>Log in</a></li></ul></nav></header>",
    "<aside class=related><ul><li><a href='/2'>Buy flour online</a></li></ul></aside><script>var x = 'track';</script>",
    "<footer><p>© 2026 <a href='/p'>Privacy policy</a></p></footer>",
)


class Article:
    """Writes words that occur once each, so that what is lost, doubled or moved is seen.

    What trafilatura leaves out on purpose is not there: a heading that nothing follows, and a few short links in a
    short division.
    """

    def __init__(self, seed: int) -> None:
        self._random = Random(seed)
        self._words: Iterator[str] = (f"w{number}x" for number in count(1000))

    def written(self) -> str:
        blocks = [self._block(2) for _ in range(self._random.randint(1, 14))]
        return f"<h1>{self._words_of(3)}</h1>{''.join(blocks)}<p>{self._line()}</p>"

    def _words_of(self, num: int) -> str:
        return " ".join(next(self._words) for _ in range(num))

    def _line(self) -> str:
        tag, other = self._random.choice(WITHIN_A_LINE), self._random.choice(WITHIN_A_LINE)
        within = (
            f"<{tag}>{self._words_of(2)} <{other} class=k>{self._words_of(1)}</{other}></{tag}> {self._words_of(2)} "
        )
        ends = (
            f"<a href='/x'>{self._words_of(2)}</a>",
            "<br>",
            f"<span class=k>{self._words_of(1)}</span>",
            "<o:p></o:p>",
        )
        return f"{within}{self._words_of(4)} {self._random.choice(ends)} {self._words_of(4)}"

    def _blocks(self, depth: int) -> str:
        return "".join(self._block(depth - 1) for _ in range(self._random.randint(1, 3)))

    def _block(self, depth: int) -> str:
        line, blocks = self._line, self._blocks
        kinds = [
            lambda: f"<p>{line()}</p>",
            lambda: f"<div>{line()}</div>",
            lambda: line(),
            lambda: f"<div class=k>{line()}<p>{line()}</p>{line()}</div>",
            lambda: f"<h2>{line()}</h2><pre>{line()}\n\n  {self._words_of(3)}</pre>",
            lambda: f"<figure><img src=a.png><figcaption>{line()}</figcaption></figure>",
            lambda: f"<address>{line()}</address>",
            lambda: f"<dl><dt>{line()}<dd>{line()}</dl>",
        ]
        if depth > 0:
            kinds += [
                lambda: f"<ul><li>{line()}</li><li>{line()}{blocks(depth)}{line()}</li></ul>",
                lambda: f"<section>{blocks(depth)}{line()}</section>",
                lambda: f"<blockquote>{line()}{blocks(depth)}</blockquote>",
                lambda: f"<details><summary>{line()}</summary>{blocks(depth)}{line()}</details>",
                lambda: (
                    f"<table><caption>{line()}</caption><tr><th>{line()}<td>{blocks(depth)}{line()}<tr><td>{line()}</table>"
                ),
                lambda: f"<table><tr><td>{line()}<td><table><tr><td>{line()}</table>{line()}</table>",
            ]
        return self._random.choice(kinds)()


@pytest.mark.parametrize("first", range(0, 100, 25))
def test_the_words_of_an_article_are_all_there_in_their_order_and_once(first: int) -> None:
    for seed in range(first, first + 25):
        page = (
            f"<!doctype html><html><body>{AROUND[0]}<article>{Article(seed).written()}</article>{''.join(AROUND[1:])}"
        )
        article = document_fromstring(page).find(".//article")

        assert article is not None
        assert WORD.findall(page_of(page)[0]) == WORD.findall(article.text_content()), f"seed {seed}"
