"""The pages' colours by WCAG 2.2: text and signs can be told from their ground, in both themes."""

import re
from pathlib import Path

import pytest

CSS = Path(__file__).parents[2] / "headrace/text/templates/page.css"
LIGHT, DARK = (dict(re.findall(r"--(\w+): (#[0-9a-f]{6})", part)) for part in CSS.read_text().split("@media (")[:2])
Color = tuple[float, ...]


def rgb(text: str) -> Color:
    return tuple(int(text[place : place + 2], 16) / 255 for place in (1, 3, 5))


def contrast(one: Color, other: Color) -> float:
    """WCAG's contrast ratio, 1 to 21."""

    def luminance(color: Color) -> float:
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in color]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=["light", "dark"])
def test_text_has_the_contrast_of_level_aa_on_every_ground(theme: dict[str, str]) -> None:
    assert contrast(rgb("#000000"), rgb("#ffffff")) == pytest.approx(21)
    for ground in ("page", "card", "track"):
        for text in ("ink", "soft", "good", "bad", "warm", "link"):
            assert contrast(rgb(theme[text]), rgb(theme[ground])) >= 4.5, (text, ground)


@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=["light", "dark"])
def test_what_is_drawn_and_what_is_operated_stands_out(theme: dict[str, str]) -> None:
    for name in ("edge", *(f"s{number}" for number in range(6))):
        assert contrast(rgb(theme[name]), rgb(theme["card"])) >= 3, name
    # The focus ring, also on the page itself.
    assert contrast(rgb(theme["s0"]), rgb(theme["page"])) >= 3


@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=["light", "dark"])
def test_a_figure_on_the_colour_of_a_set_can_be_read(theme: dict[str, str]) -> None:
    """As on the rollout's chart, in the candidate's colour."""
    for number in range(6):
        assert contrast(rgb(theme["on"]), rgb(theme[f"s{number}"])) >= 4.5, number
