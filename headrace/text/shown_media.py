"""A picture or a recording as a page has it: within the page, as a `data:` URL. `media.html.j2` draws it."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class ShownMedia:
    """`kind`: "image" or "speech". `is_small`: to be enlarged with sharp pixels. `figures`: what was measured of it."""

    role: str
    kind: str
    url: str
    is_small: bool = False
    figures: str = ""

    @property
    def num_bytes(self) -> int:
        # With its role, and what a page puts around it.
        return len(self.url) + len(self.role.encode()) + len(self.figures.encode()) + 120
