"""Against transformers itself: the same files must give the same text and the same ids."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from headrace.chat.template import checked_date
from headrace.chat.tokenizer import ChatTokenizer
from headrace.errors import InvalidInput
from headrace.keys import digest_text
from headrace.prep.token_store import tokens_digest
from tests.prep.builders import make_corpus

REAL_MODEL = Path(__file__).parents[2] / ".headrace/models/smollm2-135m"

# Each does what some well-known model's template does.
TEMPLATES = {
    "ChatML with a system turn of its own": (
        "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
        "{{ '<|im_start|>system\nYou are helpful<|im_end|>\n' }}{% endif %}"
        "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    ),
    "blocks on lines of their own, trimmed content, a begin token": (
        "{{- bos_token }}\n{%- set ns = namespace(found=false) %}\n"
        "{%- if tools is not none and tools %}\n    {{- raise_exception('no tools') }}\n{%- endif %}\n"
        "{%- for message in messages %}\n    {%- set ns.found = true %}\n"
        "    {{- '<' + message.role + '>' + message['content'] | trim + eos_token }}\n"
        "    {%- if loop.index > 9 %}\n        {%- break %}\n    {%- endif %}\n{%- endfor %}\n"
    ),
    "marked generation, JSON and lines": (
        "{% for message in messages %}\n"
        "  {% if message.role == 'assistant' %}\n"
        "{% generation %}{{ message.content }}{{ eos_token }}{% endgeneration %}\n"
        "  {% else %}\n{{ message.content | tojson }}\n{% endif %}\n{% endfor %}"
    ),
}
CHATS = [
    [{"role": "user", "content": 'Define <b> & "é".'}, {"role": "assistant", "content": "a low dam"}],
    [{"role": "system", "content": "Be short."}, {"role": "user", "content": "  two\nlines "}],
]


def with_template(model: Path, directory: Path, template: str) -> Path:
    shutil.copytree(model, directory, ignore=shutil.ignore_patterns("*.safetensors"))
    (directory / "chat_template.jinja").write_text(template)
    return directory


def assert_equal_to_transformers(directory: Path) -> None:
    from transformers import AutoTokenizer

    ours, theirs = ChatTokenizer.load(str(directory)), AutoTokenizer.from_pretrained(directory)
    for chat in CHATS:
        for add_generation_prompt in (False, True):
            text = theirs.apply_chat_template(chat, tokenize=False, add_generation_prompt=add_generation_prompt)
            ids = theirs.apply_chat_template(chat, add_generation_prompt=add_generation_prompt, return_dict=True)
            assert ours.render(chat, add_generation_prompt=add_generation_prompt) == text
            assert ours.encode_batch([text])[0].ids == list(ids["input_ids"])


@pytest.mark.parametrize("phrase", TEMPLATES)
def test_chats_are_rendered_and_tokenized_as_transformers_does(phrase: str, tiny_model: Path, tmp_path: Path) -> None:
    assert_equal_to_transformers(with_template(tiny_model, tmp_path / "model", TEMPLATES[phrase]))


@pytest.mark.skipif(not REAL_MODEL.is_dir(), reason="made by `make demo`")
def test_the_demo_models_chats_are_rendered_and_tokenized_as_transformers_does() -> None:
    assert_equal_to_transformers(REAL_MODEL)


def test_special_tokens_and_padding_come_from_the_models_files(tiny_model: Path) -> None:
    tokenizer = ChatTokenizer.load(str(tiny_model))

    assert tokenizer.special_tokens >= {"<|im_start|>", "<|im_end|>", "<|endoftext|>"}
    assert tokenizer.backend.id_to_token(tokenizer.pad_id) == "<|endoftext|>"


def test_a_template_inside_the_config_is_found_by_its_name(tiny_model: Path, tmp_path: Path) -> None:
    model = with_template(tiny_model, tmp_path / "model", "")
    (model / "chat_template.jinja").unlink()
    config = json.loads((model / "tokenizer_config.json").read_text())
    templates = [{"name": "tools", "template": "no"}, {"name": "default", "template": "{{ messages | length }} turns"}]
    (model / "tokenizer_config.json").write_text(json.dumps(config | {"chat_template": templates}))

    assert ChatTokenizer(model).render(CHATS[0]) == "2 turns"


FALLING_BACK = "{% if strftime_now is defined %}{{ strftime_now('%d %b %Y') }}{% else %}26 Jul 2024{% endif %}"
ASKING = "Today is {{ strftime_now('%d %B %Y, %H:%M') }}. {{ messages[0].content }}"


def test_a_template_that_falls_back_to_a_date_of_its_own_never_sees_todays(tiny_model: Path, tmp_path: Path) -> None:
    assert ChatTokenizer(with_template(tiny_model, tmp_path / "model", FALLING_BACK)).render(CHATS[0]) == "26 Jul 2024"


def test_a_template_that_wants_todays_date_is_refused_without_one(tiny_model: Path, tmp_path: Path) -> None:
    model = with_template(tiny_model, tmp_path / "model", ASKING)

    with pytest.raises(InvalidInput, match=r"writes today's date into every chat: .* Set template_date .* campaign"):
        ChatTokenizer(model).render(CHATS[0])


def test_a_date_that_is_given_is_the_templates_today(tiny_model: Path, tmp_path: Path) -> None:
    dated = ChatTokenizer(with_template(tiny_model, tmp_path / "model", ASKING), date="2026-03-09")

    assert dated.render([{"role": "user", "content": "Hi"}]) == "Today is 09 March 2026, 00:00. Hi"
    assert dated.digest != ChatTokenizer(tmp_path / "model").digest


@pytest.mark.parametrize("date", ["today", "2026-13-01", "2026-3-9", "2026-03-09T10:00", ""])
def test_what_is_no_day_is_refused(date: str) -> None:
    with pytest.raises(InvalidInput, match=r"template_date must be a day as YYYY-MM-DD, got"):
        checked_date("template_date", date)


def say(file: str, **values: object) -> Callable[[Path], None]:
    """Writes keys of a JSON file, which is made if there is none."""

    def change(model: Path) -> None:
        body = json.loads((model / file).read_text()) if (model / file).is_file() else {}
        (model / file).write_text(json.dumps(body | values))

    return change


@pytest.mark.parametrize(
    "change",
    [
        say("special_tokens_map.json", eos_token="<|endoftext|>"),
        say("special_tokens_map.json", bos_token={"content": "<s>", "lstrip": True}),
        say("special_tokens_map.json", additional_special_tokens=["<tool>"]),
        say("added_tokens.json", **{"<tool>": 512}),
        say("tokenizer_config.json", eos_token="<|endoftext|>"),
        say("tokenizer_config.json", split_special_tokens=True),
        say("tokenizer.json", normalizer={"type": "Lowercase"}),
        lambda model: (model / "chat_template.jinja").write_text(ASKING),
        lambda model: (model / "additional_chat_templates/default.jinja").write_text(ASKING),
    ],
)
def test_whatever_a_file_says_of_ids_and_text_is_in_the_digest(
    change: Callable[[Path], object], tiny_model: Path, tmp_path: Path
) -> None:
    """An end-of-text token of `special_tokens_map.json` was not, so examples that ended with another one were kept."""
    model = with_template(tiny_model, tmp_path / "model", "x")
    (model / "additional_chat_templates").mkdir()
    config = json.loads((model / "tokenizer_config.json").read_text())
    del config["eos_token"]
    (model / "tokenizer_config.json").write_text(json.dumps(config))
    say("special_tokens_map.json", eos_token="<|im_end|>")(model)
    before = ChatTokenizer(model)

    change(model)

    after = ChatTokenizer(model)
    assert before.digest != after.digest
    assert tokens_digest(make_corpus(), before) != tokens_digest(make_corpus(), after)


def test_files_that_say_nothing_new_leave_the_digest_as_it_was_before_they_counted(
    tiny_model: Path, tmp_path: Path
) -> None:
    model = with_template(tiny_model, tmp_path / "model", "x")
    tokenizer = ChatTokenizer(model)
    config = json.loads((model / "tokenizer_config.json").read_text())
    as_before = digest_text("tokenizer", tokenizer.backend.to_str(), json.dumps(config, sort_keys=True), "x")

    say("special_tokens_map.json", eos_token=config["eos_token"])(model)
    say("added_tokens.json", **{config["eos_token"]: tokenizer.end_of_text[1]})(model)

    assert tokenizer.digest == ChatTokenizer(model).digest == as_before


def test_templates_without_a_default_are_named(tiny_model: Path, tmp_path: Path) -> None:
    model = with_template(tiny_model, tmp_path / "model", "x")
    (model / "chat_template.jinja").rename(model / "rag.jinja")
    (model / "additional_chat_templates").mkdir()
    (model / "rag.jinja").rename(model / "additional_chat_templates/rag.jinja")

    with pytest.raises(InvalidInput, match=r"has the chat templates rag and none named default"):
        ChatTokenizer(model)


REFUSING = {
    "raises": ("{{ messages[0].content + 1 }}", "TypeError"),
    "reaches out of its sandbox": ("{{ messages.__class__.__mro__ }}", ".*unsafe"),
    "refuses a turn": ("{{ raise_exception('System role not supported') }}", "System role not supported"),
}


@pytest.mark.parametrize("phrase", REFUSING)
def test_a_template_that_cannot_be_used_is_refused_in_its_own_words(
    tiny_model: Path, tmp_path: Path, phrase: str
) -> None:
    template, words = REFUSING[phrase]
    model = with_template(tiny_model, tmp_path / "model", template)

    with pytest.raises(InvalidInput, match=f"refuses the messages: {words}"):
        ChatTokenizer(model).render(CHATS[1])


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("tokenizer.json", r"has no tokenizer\.json, wanted a model with a fast tokenizer"),
        ("tokenizer_config.json", r"has no tokenizer_config\.json"),
        ("chat_template.jinja", r"has no chat template .*take an instruct model"),
    ],
)
def test_a_model_without_a_file_is_refused_by_its_name(
    missing: str, message: str, tiny_model: Path, tmp_path: Path
) -> None:
    model = with_template(tiny_model, tmp_path / "model", "x")
    (model / missing).unlink()

    with pytest.raises(InvalidInput, match=message):
        ChatTokenizer(model)


def test_a_broken_tokenizer_file_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    model = with_template(tiny_model, tmp_path / "model", "x")
    (model / "tokenizer.json").write_text("{}")

    with pytest.raises(InvalidInput, match="is not readable"):
        ChatTokenizer(model)


def test_a_directory_that_is_not_there_is_not_sought_on_a_hub(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"does not exist\. `make demo` makes the demo's; set HEADRACE_BASE_MODEL"):
        ChatTokenizer.load(str(tmp_path / "none"))


def test_a_hub_name_that_cannot_be_had_is_refused_without_a_wait() -> None:
    with pytest.raises(InvalidInput, match="'nobody/nothing' is neither a directory nor to be had from the hub"):
        ChatTokenizer.load("nobody/nothing")
