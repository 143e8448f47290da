"""Service files: what they mean, and what is refused when one is loaded."""

from pathlib import Path

import pytest

from headrace.engines.prices import price_of
from headrace.serving.service import InvalidService, Service, load_service, load_services

SERVICE = """
name: assistant
chain: [writer]
roles:
  writer:
    model: vendor
    version: "1"
    registered: false
    engine: {name: echo}
    decoding: {temperature: 0, top_p: 1, max_new_tokens: 8}
"""


def load(tmp_path: Path, more: str = "") -> Service:
    file = tmp_path / "assistant.yaml"
    file.write_text(SERVICE + more)
    return load_service(file)


def test_a_models_price_may_differ_by_version(tmp_path: Path) -> None:
    service = load(tmp_path, "prices: {vendor: {prompt: 9}, 'vendor:1': {prompt: 1, output: 4}}")
    price = price_of(service.prices, service.version_set({}).member("writer"))
    assert price is not None
    assert price.of(1_000_000, 500_000) == 3.0


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("rollout: {gate: {margins: {cost: 0.1}}}", "a margin of cost needs prices, got none"),
        ("rollout: {gate: {margins: {judged_quality: 0.1}}}", "a margin of judged_quality needs a judge, got none"),
        ("rollout: {gate: {pass_rate_margin: 0.1}}", "nothing measures pass_rate here"),
        ("prices: {vendor: {prompt: -1}}", "prompt must be at least 0, got -1"),
        ("judge: {role: critic}", "judge must name a role of this file"),
        ("shadow_share: 2", "shadow_share must be between 0 and 1, got 2"),
        ("limits: {head_seconds_max: 0}", "head_seconds_max must be above 0, got 0"),
        ("limits: {num_headers_max: -1}", "num_headers_max must be above 0, got -1"),
        ("limits: {stalled_seconds_max: .inf}", "stalled_seconds_max must be a number within"),
        ("limits: {idle_seconds_max: .nan}", "idle_seconds_max must be a number within"),
        ("limits: {head_bytes_max: 1.5}", "head_bytes_max"),
        ("limits: {url_bytes_max: 40000}", r"below head_bytes_max \(32768\), which counts the URL too, got 40000"),
        ("limits: {num_connections_max: 100}", r"num_waiting_max together \(128\), or their clients could not stay"),
        ("limit: {}", "unknown key 'limit'; did you mean 'limits'"),
    ],
)
def test_a_service_that_cannot_run_as_written_is_refused_in_a_sentence(tmp_path: Path, more: str, message: str) -> None:
    with pytest.raises(InvalidService, match=message):
        load(tmp_path, more)


MEDIA = """
name: assistant
chain: [writer, painter]
roles:
  writer: {model: vendor, version: "1", registered: false, engine: {name: echo}}
  painter:
    {model: brush, version: "1", registered: false, engine: {name: echo}, picture: {width: 32, height: 32}}
"""


def load_media(tmp_path: Path, *changes: tuple[str, str], more: str = "") -> Service:
    body = MEDIA
    for before, after in changes:
        assert before in body
        body = body.replace(before, after)
    file = tmp_path / "assistant.yaml"
    file.write_text(body + more)
    return load_service(file)


def test_a_service_makes_what_its_last_role_makes(tmp_path: Path) -> None:
    assert load(tmp_path).makes == "text"
    service = load_media(tmp_path, ("height: 32}}", 'height: 32}, template: "{writer}, for {prompt}"}'))
    assert service.makes == "image"
    assert service.version_set({}).member("painter").user_template == "{writer}, for {prompt}"


SPEAKER = "  speaker: {model: throat, version: '1', registered: false, engine: {name: echo}, speech: {}}\n"


@pytest.mark.parametrize(
    ("changes", "more", "message"),
    [
        (
            [("[writer, painter]", "[writer, painter, speaker]")],
            SPEAKER,
            "one role that paints or speaks, its last, since a client gets one answer, got 'painter' before 'speaker'",
        ),
        ([("[writer, painter]", "[painter, writer]")], "", "the roles that write before those that paint or speak"),
        (
            [("height: 32}}", 'height: 32}, template: "{term}"}')],
            "",
            r"may use \{prompt\}, \{text\}, \{writer\}, since a client sends a text and no columns, got \{term\}",
        ),
        ([], "judge: {role: writer}", "judge must be left out where 'painter' makes image: a judge reads texts"),
        ([], "prices: {vendor: {prompt: 1}}", "prices must be left out where 'painter' makes image"),
        ([], "client_decoding: allowed", "client_decoding must be left out where 'painter' makes image"),
        ([], "rollout: {gate: {margins: {output_tokens: 9}}}", "nothing measures output_tokens here"),
        ([], "rollout: {gate: {margins: {first_piece_seconds: 9}}}", "nothing measures first_piece_seconds here"),
    ],
)
def test_what_has_no_meaning_for_pictures_is_refused_when_the_file_is_loaded(
    tmp_path: Path, changes: list[tuple[str, str]], more: str, message: str
) -> None:
    with pytest.raises(InvalidService, match=message):
        load_media(tmp_path, *changes, more=more)


def test_a_judge_writes(tmp_path: Path) -> None:
    more = "judge: {role: painter}"
    with pytest.raises(InvalidService, match="judge must be a role that writes a score, got 'painter', which makes"):
        load_media(tmp_path, ("[writer, painter]", "[writer]"), more=more)


def test_two_files_of_one_name_break_each_other_and_no_directory_is_no_service(tmp_path: Path) -> None:
    nowhere = load_services(tmp_path / "nowhere")
    assert (list(nowhere), nowhere.problems) == ([], ())
    for file in ("a.yaml", "b.yaml"):
        (tmp_path / file).write_text(SERVICE)
    (tmp_path / "c.yaml").write_text(SERVICE.replace("name: assistant", "name: other"))
    services = load_services(tmp_path)
    assert list(services.by_name) == ["other"]
    with pytest.raises(InvalidService, match="Service 'assistant' stands in two files: a.yaml and b.yaml"):
        services.find("assistant")
