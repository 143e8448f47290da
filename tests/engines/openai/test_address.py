"""Addresses and keys with which nothing can be sent."""

import pytest

from headrace.engines.openai.address import check_address
from headrace.engines.roles import EngineSettings
from headrace.errors import InvalidInput

OK = "http://127.0.0.1:8000/v1"

_NO_ADDRESS = {
    "no scheme": "localhost:8000/v1",
    "another scheme": "ftp://host/v1",
    "no host": "http:///v1",
    "a port that is none": "http://host:99999/v1",
    "half of an address": "http://[::1/v1",
    "a blank": "http://a b/v1",
    "a line end": "http://host/v1\n",
    "an escape": "http://host/\x1b[31m",
    "a password without a scheme": "user:hidden@host/v1",
    "a password with a slash": "http://user:12/hidden@host/v1",
    "a password with a hash": "http://user:12#hidden@host/v1",
    "a query, which paths would be added to": "http://host/v1?token=hidden",
    "nothing": "",
}


@pytest.mark.parametrize("phrase", _NO_ADDRESS)
def test_what_is_no_address_is_refused_without_its_password(phrase: str):
    with pytest.raises(InvalidInput, match=r"^base_url must be an address such as http://host:8000/v1, .*\.$") as told:
        check_address(_NO_ADDRESS[phrase])
    assert "hidden" not in str(told.value)
    assert "\x1b" not in str(told.value)


@pytest.mark.parametrize("url", [OK, "https://[::1]:1/v1", "http://user:pa%2Fss@host/v1", "http://bücher.example/v1"])
def test_addresses_are_taken(url: str):
    check_address(url)


@pytest.mark.parametrize("key", ["sk-hidden\n", "sk hidden", "sk-hidden\0", "sk-hidden\udcff", "\tsk-hidden"])
def test_a_key_that_no_header_takes_is_refused_and_not_shown(key: str):
    with pytest.raises(
        InvalidInput, match=r"^The API key for http://127.0.0.1:8000/v1 has a blank, a line end"
    ) as told:
        check_address(OK, key)
    assert "hidden" not in str(told.value)


def test_keys_are_taken():
    for key in ("EMPTY", "sk-0123456789", "sk-é", ""):
        check_address(OK, key)


def test_a_file_that_names_no_address_is_refused_when_it_is_loaded():
    with pytest.raises(InvalidInput, match="base_url must be an address such as"):
        EngineSettings(name="openai_http", base_url="localhost:8000/v1", model="m")
    with pytest.raises(
        InvalidInput, match=r"needs base_url and model, got base_url='http://host/v1', model=None"
    ) as told:
        EngineSettings(name="openai_http", base_url="http://user:hidden@host/v1")
    assert "hidden" not in str(told.value)
