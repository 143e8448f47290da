"""Token ids of a chat against `apply_chat_template` of transformers, over hard texts and the ways files are kept."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from headrace.chat.tokenizer import ChatTokenizer

TEXTS = [
    "a low dam",
    "",
    " leading and trailing ",
    "list:\n\n1. one\n\n2. two\r\n\ttabbed  double",
    "0 1 12 123 1234 12345.678 1e-9 ½ ²",
    "naïve café — “quoted” … ¿qué? ß İi ﬁ",
    "e\u0301 = é, Å = Å, ａ＝ａ",  # composed, decomposed, full-width
    "日本語の文章。中文文本，和標點！한국어 문장",
    "हिन्दी में एक वाक्य தமிழ் ภาษาไทย",
    "עברית ו-العربية مع אותיות",
    "👩‍👩‍👧‍👦 🏳️‍🌈 🇩🇪 \u200b\u200d\ufeff",
    "def f(x):\n    return {'a': x['b'] ** 2}  # <b> & \"q\" \\n",
    "<|not_special|> <s <|im_ end|> [INST",
    "\x00\x07\x1b[31m\x7f\ud7ff\U0010ffff",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
]
BOS_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{{ '[' + message['role'] + '] ' + message['content'] | trim }}"
    "{{ eos_token }}{% endfor %}{% if add_generation_prompt %}{{ '[assistant] ' }}{% endif %}"
)


def copied(model: Path, directory: Path) -> Path:
    shutil.copytree(model, directory, ignore=shutil.ignore_patterns("*.safetensors"))
    return directory


def config(directory: Path, **changes: Any) -> None:
    path = directory / "tokenizer_config.json"
    body = {key: value for key, value in (json.loads(path.read_text()) | changes).items() if value is not None}
    path.write_text(json.dumps(body))


def tokenizer_json(directory: Path, change: Callable[[dict[str, Any]], None]) -> None:
    path = directory / "tokenizer.json"
    body = json.loads(path.read_text())
    change(body)
    path.write_text(json.dumps(body))


# --- the ways in which files are kept ---


def bos_in_the_special_tokens_map(directory: Path) -> None:
    """As many models saved by older releases do."""
    (directory / "special_tokens_map.json").write_text(
        json.dumps({"bos_token": {"content": "<s>", "lstrip": False}, "eos_token": "</s>"})
    )
    config(directory, bos_token=None, eos_token=None)
    (directory / "chat_template.jinja").write_text(BOS_TEMPLATE)


def flags_beside_ids_hide_the_map(directory: Path) -> None:
    config(directory, added_tokens_decoder={"0": {"content": "<|endoftext|>", "special": True}})
    (directory / "special_tokens_map.json").write_text(json.dumps({"bos_token": "<other>"}))
    (directory / "chat_template.jinja").write_text(BOS_TEMPLATE)


def further_special_tokens(directory: Path) -> None:
    config(directory, extra_special_tokens=["<tool>", "</tool>"])
    (directory / "chat_template.jinja").write_text("<tool>" + BOS_TEMPLATE + "</tool>")


def further_special_tokens_by_their_old_name(directory: Path) -> None:
    config(directory, additional_special_tokens=["<tool>", {"__type": "AddedToken", "content": "<x>", "lstrip": True}])
    (directory / "chat_template.jinja").write_text("a <x><tool>" + BOS_TEMPLATE)


def special_tokens_of_an_architecture(directory: Path) -> None:
    config(directory, extra_special_tokens={"image_token": "<image>"}, boa_token="<audio>")
    (directory / "chat_template.jinja").write_text("{{ image_token }}{{ boa_token }}" + BOS_TEMPLATE)


def added_tokens_of_their_own_file(directory: Path) -> None:
    (directory / "added_tokens.json").write_text(json.dumps({"<extra>": 512, "<more>": 513}))
    (directory / "chat_template.jinja").write_text("<extra> <more>" + BOS_TEMPLATE)


def templates_in_a_directory(directory: Path) -> None:
    (directory / "additional_chat_templates").mkdir()
    (directory / "additional_chat_templates/tool_use.jinja").write_text("never")
    (directory / "additional_chat_templates/rag.jinja").write_text("never")


def a_default_in_the_directory(directory: Path) -> None:
    (directory / "additional_chat_templates").mkdir()
    (directory / "additional_chat_templates/default.jinja").write_text("D" + BOS_TEMPLATE)


def templates_by_name(directory: Path) -> None:
    (directory / "chat_template.jinja").unlink()
    config(
        directory,
        chat_template=[{"name": "tool_use", "template": "never"}, {"name": "default", "template": BOS_TEMPLATE}],
    )


def a_template_that_builds_mappings(directory: Path) -> None:
    (directory / "chat_template.jinja").write_text(
        "{%- set ns = namespace(first=true) -%}{%- for message in messages -%}"
        "{{ dict(role=message.role, n=loop.index) | tojson(separators=(',', ':')) }}{{ message.content }}"
        "{%- set ns.first = false -%}{%- endfor -%}{{ ns.first }}"
    )


def metaspace_of_the_first_word_alone(directory: Path) -> None:
    """As Llama 2 and Mistral: a space in front of the text, none behind a special token."""
    tokenizer_json(
        directory,
        lambda body: body.update(
            pre_tokenizer={"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": False},
            decoder={"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": False},
        ),
    )


def spaces_that_a_token_swallows(directory: Path) -> None:
    def change(body: dict[str, Any]) -> None:
        for token in body["added_tokens"]:
            token["lstrip"] = token["rstrip"] = True

    tokenizer_json(directory, change)


def texts_that_are_normalized(directory: Path) -> None:
    tokenizer_json(
        directory,
        lambda body: body.update(
            normalizer={"type": "Sequence", "normalizers": [{"type": "NFKC"}, {"type": "Lowercase"}]}
        ),
    )


def digits_one_by_one(directory: Path) -> None:
    tokenizer_json(
        directory,
        lambda body: body.update(
            pre_tokenizer={
                "type": "Sequence",
                "pretokenizers": [
                    {"type": "Digits", "individual_digits": True},
                    {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
                ],
            }
        ),
    )


def what_other_callers_cut_and_pad(directory: Path) -> None:
    tokenizer_json(
        directory,
        lambda body: body.update(
            truncation={"direction": "Right", "max_length": 8, "strategy": "LongestFirst", "stride": 0}
        ),
    )


KEPT = [
    bos_in_the_special_tokens_map,
    flags_beside_ids_hide_the_map,
    further_special_tokens,
    further_special_tokens_by_their_old_name,
    special_tokens_of_an_architecture,
    added_tokens_of_their_own_file,
    templates_in_a_directory,
    a_default_in_the_directory,
    templates_by_name,
    a_template_that_builds_mappings,
    metaspace_of_the_first_word_alone,
    spaces_that_a_token_swallows,
    texts_that_are_normalized,
    digits_one_by_one,
    what_other_callers_cut_and_pad,
]


def chats() -> list[list[dict[str, str]]]:
    alone = [[{"role": "user", "content": text}] for text in TEXTS]
    whole = [
        [
            {"role": "system", "content": TEXTS[(number + 1) % len(TEXTS)]},
            {"role": "user", "content": text},
            {"role": "assistant", "content": TEXTS[(number + 2) % len(TEXTS)]},
            {"role": "user", "content": text[::-1]},
        ]
        for number, text in enumerate(TEXTS)
    ]
    return alone + whole


def differing(directory: Path) -> list[Any]:
    from transformers import AutoTokenizer

    ours, theirs = ChatTokenizer(directory), AutoTokenizer.from_pretrained(directory, trust_remote_code=False)
    return [
        (chat, ids, wanted)
        for chat in chats()
        for prompted in (False, True)
        if (ids := ours.encode_chat(chat, add_generation_prompt=prompted))
        != (wanted := list(theirs.apply_chat_template(chat, add_generation_prompt=prompted)["input_ids"]))
    ]


def test_plain_files_give_the_ids_of_transformers(tiny_model: Path) -> None:
    assert differing(tiny_model) == []


@pytest.mark.parametrize("kept", KEPT, ids=lambda kept: kept.__name__)
def test_files_kept_in_another_way_give_the_ids_of_transformers(
    kept: Callable[[Path], None], tiny_model: Path, tmp_path: Path
) -> None:
    directory = copied(tiny_model, tmp_path / "model")
    kept(directory)

    assert differing(directory) == []


REAL_MODEL = Path(__file__).parents[2] / ".headrace/models/smollm2-135m"


@pytest.mark.skipif(not REAL_MODEL.is_dir(), reason="made by `make demo`")
def test_the_demos_model_gives_the_ids_of_transformers() -> None:
    assert differing(REAL_MODEL) == []
