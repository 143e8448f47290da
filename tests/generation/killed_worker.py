"""Generates one partition many times, each in a forked process that is killed (-9) at another line of our code.

`python tests/generation/killed_worker.py DIRECTORY NUM_KILLS [mirror | repin | media]` kills at NUM_KILLS lines, evenly
spaced over all lines of headrace/generation that a whole run goes through, and leaves one store for each kill. Prints
their directories. `mirror`: the run mirrors a sealed partition on the candidate. `repin`: it finds an attempt half made
on a set that was rolled back since, and makes the next one. `media`: it writes, paints and speaks.
"""

import shutil
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.generation.builders import TEXTS, ScriptedEngine, Site, make_site
from tests.generation.media_builders import MediaSite, make_media_campaign, make_media_site
from tests.killing import killed_at_many_lines, num_lines_run

ROOMS = ("headrace/generation/",)


def prepare(directory: Path, mode: str) -> None:
    if mode == "media":
        make_media_site(directory)
        return
    site = make_site(directory)
    if mode == "mirror":
        site.generate()
        site.start(2, weight=0.1)
    if mode == "repin":
        site.start(2)
        half = ScriptedEngine(fails=lambda prompt: prompt == TEXTS[-1] and KeyboardInterrupt())
        try:
            site.generate(site.open_claim("run-killed"), engine=half)
        except KeyboardInterrupt:
            site.abort(2)


def work(directory: Path, mode: str) -> None:
    if mode == "media":
        site = media_site(directory)
        site.generate(site.open_claim("run-killed"))
        return
    site = Site(directory)
    if mode == "mirror":
        site.mirror(root_run_id="run-killed")
    else:
        site.generate(site.open_claim("run-killed"))


def media_site(directory: Path) -> MediaSite:
    return MediaSite(directory, campaign=make_media_campaign())


def main() -> None:
    root, num_kills = Path(sys.argv[1]), int(sys.argv[2])
    mode = sys.argv[3] if len(sys.argv) > 3 else "generate"
    prepare(root / "prepared", mode)
    shutil.copytree(root / "prepared", root / "whole")
    killed_at_many_lines(
        lambda directory: work(directory, mode),
        ROOMS,
        root,
        num_lines=num_lines_run(lambda: work(root / "whole", mode), ROOMS, None),
        num_kills=num_kills,
        prepare=lambda directory: shutil.copytree(root / "prepared", directory),
    )


if __name__ == "__main__":
    main()
