"""How a text is compared with what was heard: numbers in words, no accents, and letters that nobody heard stay."""

import pytest

from headrace.generation.media_review.spoken_text import readings


@pytest.mark.parametrize(
    ("text", "spoken"),
    {
        "signs and case": ("The Mill's wheel, (large)!", ["themillswheellarge"]),
        "accents": ("Café naïve Łódź straße", ["cafenaivelodzstrasse"]),
        "accents apart": ("cafe\u0301", ["cafe"]),
        "a number": ("a set of 32 pieces", ["asetofthirtytwopieces"]),
        "thousands": ("1,000,000 cubits", ["onemillioncubits"]),
        "a fraction": ("3.14", ["threepointonefour"]),
        "a year has two readings": (
            "in 1905",
            ["inonethousandninehundredfive", "innineteenohfive"],
        ),
        "a century": ("1900", ["onethousandninehundred", "nineteenhundred"]),
        "a millennium has one": ("2000", ["twothousand"]),
        "signs with words": ("5% & 3 °", ["fivepercentandthreedegrees"]),
        "full width": ("ｗｈｅｅｌ １２", ["wheeltwelve"]),
        "another script": ("水 wheel", ["水wheel"]),
        "a number of no end": ("9" * 16, ["nine" * 16]),
        "more digits than Python reads as a number": ("9" * 5000, ["nine" * 5000]),
        "zeros before a number": ("0" * 20 + "12", ["twelve"]),
        "nothing": ("— …", [""]),
        "a lone surrogate": ("mill \ud800", ["mill"]),
    }.values(),
)
def test_a_text_is_read_as_it_is_spoken(text: str, spoken: list[str]) -> None:
    assert list(readings(text)) == spoken
