"""Renders all pages: by Jinja, which escapes everything but our own markup.

Beyond what HTML needs, control characters (above all overrides of the writing direction) are shown as escapes, so
foreign text moves nothing beside it. Text for an SVG or an attribute goes through `escaped`.
"""

import jinja2
from markupsafe import Markup, escape

from headrace.text.visible import visible_lines


def page_environment(package: str) -> jinja2.Environment:
    """The environment for templates in `package`'s directory `templates`; an undefined name is an error, not a gap."""
    return jinja2.Environment(
        loader=jinja2.PackageLoader(package),
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
