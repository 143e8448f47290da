"""The one way in which pages are written: Jinja, escaping whatever is no markup of ours.

Beyond what HTML calls for, characters that steer (overrides of the writing direction above all) are shown as escapes:
foreign text moves nothing beside it. Text that goes into an SVG or an attribute goes through `escaped`.
"""

import jinja2
from markupsafe import Markup, escape

from headrace.text.visible import visible_lines


def page_environment(package: str) -> jinja2.Environment:
    """Of the templates in `package`'s directory `templates`; a name that is not given is an error, not a gap."""
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
