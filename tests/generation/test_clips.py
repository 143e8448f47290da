"""Films of rows: what they show, how long, with which text; the same bytes in any process."""

import io
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from headrace.errors import InvalidCampaign
from headrace.generation.clip_settings import ClipSettings
from headrace.generation.clips import cues_of, film, seal_clips
from headrace.generation.opus import ogg_opus
from headrace.handoff.media.reading import MediaSet
from headrace.version_sets.media_settings import Picture
from tests.generation.media_builders import make_media_campaign, make_media_site, make_roles
from tests.handoff.media.builders import make_wav

TEXT = "A mill <grinds> & grinds,\nall day long."


def make_picture(width: int = 33, height: int = 17) -> bytes:
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[:, : width // 2] = (200, 40, 40)
    pixels[:, width // 2 :] = (30, 60, 220)
    body = io.BytesIO()
    Image.fromarray(pixels).save(body, "PNG")
    return body.getvalue()


@pytest.fixture(scope="module")
def made() -> bytes:
    body, size, seconds = film(make_picture(), make_wav(4000), TEXT, ClipSettings())
    assert (size, seconds) == ((528, 272), 0.5)
    return body


def opened(body: bytes) -> Any:
    return av.open(io.BytesIO(body))


def test_a_film_shows_the_picture_for_as_long_as_the_recording_lasts(made: bytes) -> None:
    with opened(made) as read:
        assert read.format.name == "matroska,webm"
        assert [
            (one.type, one.codec_context.codec.canonical_name) for one in read.streams if one.type != "subtitle"
        ] == [
            ("video", "vp9"),
            ("audio", "opus"),
        ]
        assert abs(read.duration / 1e6 - 0.5) < 0.1
        frames = [frame.to_ndarray(format="rgb24") for frame in read.decode(video=0)]
    assert len(frames) == 5
    for frame in (frames[0], frames[-1]):
        assert frame.shape == (272, 528, 3)
        # A colour stays itself, at either end of the film.
        for column, color in ((100, (200, 40, 40)), (400, (30, 60, 220))):
            assert np.abs(frame[136, column].astype(int) - color).max() <= 8


def test_a_film_says_what_the_recording_says(made: bytes) -> None:
    with opened(made) as read:
        sound = np.concatenate([frame.to_ndarray()[0] for frame in read.decode(audio=0)])
    # 8,000 samples a second become 48,000, whatever the container's padding.
    assert abs(len(sound) / 48_000 - 0.5) < 0.02
    with opened(ogg_opus(make_wav(4000))) as read:
        alone = np.concatenate([frame.to_ndarray()[0] for frame in read.decode(audio=0)])
    assert len(alone) == 24_000
    assert np.abs(alone[2000:22_000] - sound[2000:22_000]).max() < 1e-3


def test_the_text_is_a_track_of_its_own(made: bytes) -> None:
    with opened(made) as read:
        [track] = read.streams.subtitles
        cues = [(packet.pts, packet.duration, bytes(packet)) for packet in read.demux(track) if packet.size]
    assert cues == [(0, 500, b"A mill &lt;grinds&gt; &amp; grinds, all day long.")]
    body, *_ = film(make_picture(), make_wav(400), TEXT, ClipSettings(subtitles=False))
    with opened(body) as read:
        assert not read.streams.subtitles


@pytest.mark.parametrize("text", ["", " \n", "word " * 100, "長い文" * 60, "--> " * 30])
def test_subtitles_follow_each_other_to_the_end(text: str) -> None:
    cues = list(cues_of(text, 12.34))
    assert "".join(cue for *_, cue in cues).replace("&gt;", ">").replace(" ", "") == "".join(text.split())
    ends = [start + length for start, length, _ in cues]
    assert [start for start, *_ in cues] == [0, *ends][: len(cues)]
    assert not ends or ends[-1] == 12_340
    assert all(len(cue.replace("&gt;", ">")) <= 84 for *_, cue in cues)


@pytest.mark.parametrize(("size", "shown"), [((1, 300), (27, 8100)), ((8192, 1), (8192, 1)), ((1, 1), (256, 256))])
def test_a_line_of_pixels_is_no_film_of_millions(size: tuple[int, int], shown: tuple[int, int]) -> None:
    assert film(make_picture(*size), make_wav(800), TEXT, ClipSettings())[1] == shown


def test_the_same_parts_give_the_same_bytes_here_and_in_another_process(made: bytes, tmp_path: Path) -> None:
    again, *_ = film(make_picture(), make_wav(4000), TEXT, ClipSettings())
    assert again == made
    (tmp_path / "picture").write_bytes(make_picture())
    (tmp_path / "sound").write_bytes(make_wav(4000))
    program = (
        "import sys; from headrace.generation.clips import *\n"
        "picture, sound = (open(f'{sys.argv[1]}/{name}', 'rb').read() for name in ('picture', 'sound'))\n"
        "sys.stdout.buffer.write(film(picture, sound, sys.argv[2], ClipSettings())[0])"
    )
    command = [sys.executable, "-c", program, tmp_path, TEXT]
    assert subprocess.run(command, capture_output=True, check=True).stdout == made


def test_each_row_with_both_parts_has_a_film_that_names_them(tmp_path: Path) -> None:
    site, settings = make_media_site(tmp_path), ClipSettings(pixels_min=48)
    outcome = site.generate()
    sealed = seal_clips(outcome.content, site.handoffs, settings, run_id="r")
    films = MediaSet.open(sealed)
    rows = outcome.content.table().to_pylist()
    assert [(item.item_id, item.row_id) for item in films] == [(f"{row['row_id']}/clip", row["row_id"]) for row in rows]
    first = next(iter(films))
    assert (first.media_type, first.width, first.height, first.caption) == ("video/webm", 64, 48, rows[0]["output"])
    assert (first.attributes["picture"], first.attributes["recording"]) == (
        f"{first.row_id}/painter",
        f"{first.row_id}/speaker",
    )
    assert outcome.sealed
    speech = MediaSet.open(outcome.sealed.media["speech"]).item(f"{first.row_id}/speaker")
    assert first.attributes["recording_xxh3_128"] == speech.xxh3_128
    assert first.duration_seconds
    assert speech.duration_seconds
    assert 0 <= first.duration_seconds - speech.duration_seconds < 0.1
    again = seal_clips(outcome.content, site.handoffs, settings, run_id="another")
    assert (again.version, again.reused) == (1, True)
    silent = replace(settings, subtitles=False)
    assert seal_clips(outcome.content, site.handoffs, silent, run_id="another").version == 2


def test_a_chain_without_a_voice_makes_no_films() -> None:
    roles = make_roles()
    del roles["speaker"]
    with pytest.raises(InvalidCampaign, match="the chain has no role that speaks: add it, or leave clips out"):
        replace(make_media_campaign(roles), clips=ClipSettings())


def test_a_picture_is_not_too_large_for_a_film() -> None:
    painter = replace(make_roles()["painter"], picture=Picture(width=8192, height=8192))
    with pytest.raises(InvalidCampaign, match="clips: a film's picture has at most 33,554,432 pixels, got 67,108,864"):
        make_media_campaign(make_roles(painter=painter), clips=ClipSettings())
