"""The table of request headers: what it takes is what the OpenAPI page says, and a gateway takes what the page says."""

import json
import re
import urllib.request
from collections.abc import Callable

import jsonschema
import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.serving.gateway.refusals import Refusal
from headrace.serving.gateway.request_headers import NAMING_HEADERS, SESSION, VERSION_SET, NamingHeader
from simulation.servers.gateway_site import GatewayProcess, Site

NAMES = ["stable", "candidate", "Stable", "stable ", "candidates", "a" * 64, "A" * 64, "a" * 63, "s-1", "", "a b", "é"]
texts = st.one_of(st.sampled_from(NAMES), st.text(st.characters(max_codepoint=255), max_size=300))


def takes(header: NamingHeader, value: str) -> bool:
    try:
        return header.read({header.raw: value.encode("latin-1")}) == value
    except Refusal:
        return False


@pytest.mark.parametrize("header", NAMING_HEADERS, ids=lambda header: header.name)
@given(value=texts)
def test_a_header_takes_what_its_schema_says(header: NamingHeader, value: str) -> None:
    is_valid = jsonschema.Draft202012Validator(header.schema).is_valid(value)
    # Python's `$` also stands before a last newline, which no header has.
    assert takes(header, value) == (is_valid and not value.endswith("\n"))


def test_a_set_is_named_by_word_or_id() -> None:
    assert [name for name in NAMES if takes(VERSION_SET, name)] == ["stable", "candidate", "a" * 64]
    assert VERSION_SET.read({}) is None
    assert takes(SESSION, "s-1")


def test_what_a_header_does_not_take_is_refused_by_name() -> None:
    with pytest.raises(
        Refusal, match="Header X-Headrace-Version-Set must be `stable`, `candidate`, or a version"
    ) as no:
        VERSION_SET.read({b"x-headrace-version-set": b"newest"})
    assert no.value.status == 400


@pytest.mark.process
def test_a_gateway_takes_what_its_page_says_of_version_sets(
    make_site: Callable[..., Site], client_of: Callable[..., openai.OpenAI]
) -> None:
    site = make_site()
    stable, candidate = site.initialize(), site.version_set(writer={"version": "2"})
    site.start_candidate(candidate, weight=0.5)
    gateway = site.start()
    said = version_set_on_the_page(gateway)
    assert "`candidate` while there is one" in said["description"]
    words, form = said["schema"]["anyOf"]
    assert words == {"enum": ["stable", "candidate"]}
    for name, wanted in {"stable": stable, "candidate": candidate, stable.id: stable, candidate.id: candidate}.items():
        assert name in words["enum"] or re.search(form["pattern"], name)
        raw = client_of(gateway, X_Headrace_Version_Set=name).chat.completions.with_raw_response.create(
            model="assistant", messages=[{"role": "user", "content": "Hello."}]
        )
        assert raw.headers["x-headrace-version-set"] == wanted.id


def version_set_on_the_page(gateway: GatewayProcess) -> dict:  # pyright: ignore[reportMissingTypeArgument]
    with urllib.request.urlopen(f"{gateway.url}/openapi.json", timeout=60) as response:
        page = json.load(response)
    parameters = page["paths"]["/v1/chat/completions"]["post"]["parameters"]
    return next(parameter for parameter in parameters if parameter["name"] == "X-Headrace-Version-Set")
