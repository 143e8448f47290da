"""What is hidden, and what is left."""

import base64
import json
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.masking import Mask, MaskedPieces, secrets_in, without_credentials

keys = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=12, max_size=24)
# A key made of the mask's own character could arise anew from what was masked.
keys = keys.filter(lambda key: "*" not in key)


@given(keys, st.text(max_size=20), st.text(max_size=20))
def test_a_secret_is_found_in_every_spelling(key: str, before: str, after: str) -> None:
    mask = Mask([key])
    spelled = [key, quote(key, safe=""), json.dumps(key), base64.b64encode(key.encode()).decode()]
    for text in spelled:
        assert key not in mask(before + text + after)
        assert text.strip('"=') not in mask(before + text + after)


@given(keys, st.text(max_size=30), st.data())
def test_pieces_are_masked_as_the_whole_is_wherever_they_are_cut(key: str, around: str, data: st.DataObject) -> None:
    whole = around + key + around
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=6)))
    parts = [whole[begin:end] for begin, end in zip([0, *cuts], [*cuts, len(whole)], strict=True)]
    mask = Mask([key]).of_written
    pieces = MaskedPieces(mask)
    given_out = "".join([*(pieces.feed(part) for part in parts), pieces.rest()])
    assert key not in given_out
    assert given_out == mask(whole)


@given(st.text(max_size=40))
def test_without_secrets_nothing_changes(text: str) -> None:
    assert Mask([None, ""])(text) == text


@pytest.mark.parametrize(
    ("url", "shown"),
    {
        "nothing to hide": ("http://host:80/v1?a=b", "http://host:80/v1?a=b"),
        "a password": ("https://reader:secret@host/v1", "https://host/v1"),
        "a token as user": ("https://tok-1@host/v1", "https://host/v1"),
        "a field": ("https://host/v1?api-key=s3cret&a=b", "https://host/v1?api-key=***&a=b"),
        "a database": (
            "postgresql://mlflow:p%40ss@db/mlflow?sslmode=require",
            "postgresql://db/mlflow?sslmode=require",
        ),
        "a file": ("sqlite:////var/lib/mlflow.db", "sqlite:////var/lib/mlflow.db"),
        "no URL": ("http://[half", "a URL that cannot be read"),
    }.values(),
)
def test_a_url_is_shown_without_its_credentials(url: str, shown: str) -> None:
    assert without_credentials(url) == shown
    assert not any(secret in without_credentials(url) for secret in secrets_in(url))


def test_a_password_is_looked_for_as_it_is_written_and_as_it_is_sent() -> None:
    found = secrets_in("postgresql://mlflow:p%40ss@db/mlflow")
    assert {"p%40ss", "p@ss", base64.b64encode(b"mlflow:p@ss").decode()} <= set(found)
