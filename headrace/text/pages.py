"""Renders all pages: by Jinja, which escapes everything but our own markup.

Beyond what HTML needs, control characters (above all overrides of the writing direction) are shown as escapes, so
foreign text moves nothing beside it. Text for an SVG or an attribute goes through `escaped`.
"""

from collections.abc import Sequence

import jinja2
from markupsafe import Markup, escape

from headrace.text.visible import visible_lines


def page_environment(package: str) -> jinja2.Environment:
    """The environment for templates in `package`'s directory `templates`, and for what all pages share in ours.

    An undefined name is an error, not a gap.
    """
    loaders = [jinja2.PackageLoader(package), jinja2.PackageLoader("headrace.text")]
    return jinja2.Environment(
        loader=jinja2.ChoiceLoader(loaders),
        autoescape=True,
        finalize=_shown,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def escaped(text: str) -> Markup:
    """Text as HTML, SVG or an attribute's value in quotation marks."""
    return escape(visible_lines(text))


def _shown(value: object) -> object:
    return visible_lines(value) if isinstance(value, str) and not hasattr(value, "__html__") else value


# Of a page's style: `s0` to `s5`.
NUM_COLORS = 6


def svg(title: str, width: int, height: float, parts: Sequence[str]) -> Markup:
    """A chart as SVG text, for a page that works without a script, a font or a network.

    Sizes are in the SVG's own units; the page scales them. Colours come from the page's style (`class="s0"` … `s5`), so
    that a chart follows the reader's light or dark theme.
    """
    return Markup(
        f'<svg viewBox="0 0 {width} {max(height, 1):g}" role="img" aria-label="{escaped(title)}" '
        f'xmlns="http://www.w3.org/2000/svg">{"".join(parts)}</svg>'
    )


def shortened(text: str, limit: int = 28) -> Markup:
    """Escapes the text, cut to at most `limit` characters."""
    return escaped(text if len(text) <= limit else f"{text[: limit - 1]}…")
