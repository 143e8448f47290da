"""Tells addresses (`s3://…`) from paths; light, since the command line asks it of every place it is told."""

import re


def is_address(text: str) -> bool:
    """Whether a place is no path. With one slash it is a slip, which else would make a directory of that name."""
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", text) is not None
