"""Chat templates in the form of well-known models', and what each makes of an assistant's turn."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

CHATML = (
    "{%- for message in messages %}"
    "{{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>' + '\n' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}"
)
# As Qwen 2.5: tools in the system turn, calls as JSON, a tool's answers in a user's turn.
CHATML_WITH_TOOLS = (
    "{%- if tools %}{{- '<|im_start|>system\n' }}"
    "{%- if messages[0].role == 'system' %}{{- messages[0].content + '\n\n' }}{%- endif %}"
    "{{- '<tools>' }}{%- for tool in tools %}{{- '\n' }}{{- tool | tojson }}{%- endfor %}"
    "{{- '\n</tools><|im_end|>\n' }}"
    "{%- elif messages[0].role == 'system' %}"
    "{{- '<|im_start|>system\n' + messages[0].content + '<|im_end|>\n' }}{%- endif %}"
    "{%- for message in messages %}"
    "{%- if message.role == 'user' or (message.role == 'system' and not loop.first) or "
    "(message.role == 'assistant' and not message.tool_calls) %}"
    "{{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>' + '\n' }}"
    "{%- elif message.role == 'assistant' %}"
    "{{- '<|im_start|>' + message.role }}"
    "{%- if message.content %}{{- '\n' + message.content }}{%- endif %}"
    "{%- for call in message.tool_calls %}"
    '{{- \'\n<tool_call>\n{"name": "\' }}{{- call.function.name }}{{- \'", "arguments": \' }}'
    "{{- call.function.arguments | tojson }}{{- '}\n</tool_call>' }}{%- endfor %}{{- '<|im_end|>\n' }}"
    "{%- elif message.role == 'tool' %}"
    "{%- if loop.index0 == 0 or messages[loop.index0 - 1].role != 'tool' %}{{- '<|im_start|>user' }}{%- endif %}"
    "{{- '\n<tool_response>\n' + message.content + '\n</tool_response>' }}"
    "{%- if loop.last or messages[loop.index0 + 1].role != 'tool' %}{{- '<|im_end|>\n' }}{%- endif %}"
    "{%- endif %}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}"
)
# The same text, with what the assistant generates marked.
GENERATION_WITH_TOOLS = (
    CHATML_WITH_TOOLS.replace("or (message.role == 'assistant' and not message.tool_calls) %}", "%}")
    .replace(
        "{{- '<|im_start|>' + message.role }}{%- if message.content %}{{- '\n' + message.content }}{%- endif %}"
        "{%- for call in message.tool_calls %}{{- '\n<tool_call>",
        "{{- '<|im_start|>assistant\n' }}{% generation %}{{- message.content }}"
        "{%- for call in message.tool_calls %}{{- '\n' if message.content or not loop.first }}{{- '<tool_call>",
    )
    .replace(
        "{{- '<|im_end|>\n' }}{%- elif message.role == 'tool' %}",
        "{{- '<|im_end|>' }}{% endgeneration %}{{- '\n' }}{%- elif message.role == 'tool' %}",
    )
)
LLAMA_3 = (
    "{% for message in messages %}"
    "{% set content = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' + message['content'] | trim "
    "+ '<|eot_id|>' %}"
    "{% if loop.index0 == 0 %}{% set content = '<|begin_of_text|>' + content %}{% endif %}{{ content }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
# No generation prompt: `[/INST]` is one. The system turn goes into the first user's.
MISTRAL = (
    "{{ '<s>' }}{% if messages[0].role == 'system' %}{% set system = messages[0].content + '\n\n' %}"
    "{% set rest = messages[1:] %}{% else %}{% set system = '' %}{% set rest = messages %}{% endif %}"
    "{% for message in rest %}"
    "{% if (message.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant') }}{% endif %}"
    "{% if message.role == 'user' %}"
    "{{ ' [INST] ' + (system if loop.first else '') + message.content + ' [/INST]' }}"
    "{% else %}{{ ' ' + message.content + '</s>' }}{% endif %}{% endfor %}"
)
GEMMA = (
    "{{ '<bos>' }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for message in messages %}"
    "{% set role = 'model' if message['role'] == 'assistant' else message['role'] %}"
    "{{ '<start_of_turn>' + role + '\n' + message['content'] | trim + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
# As Qwen 3: only the last answer is shown with its thoughts, empty here.
THINKING = (
    "{%- for message in messages %}{{- '<|im_start|>' + message.role + '\n' }}"
    "{%- if message.role == 'assistant' and loop.last %}{{- '<think>\n\n</think>\n\n' }}{%- endif %}"
    "{{- message.content + '<|im_end|>\n' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}"
)
GENERATION = (
    "{%- for message in messages %}{{- '<|im_start|>' + message.role + '\n' }}"
    "{%- if message.role == 'assistant' %}{% generation %}{{- message.content + '<|im_end|>' }}{% endgeneration %}"
    "{%- else %}{{- message.content + '<|im_end|>' }}{%- endif %}{{- '\n' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}"
)


@dataclass(frozen=True, kw_only=True)
class Form:
    """`learnt`: what the model shall generate of a content."""

    template: str
    tokens: tuple[str, ...]
    learnt: Callable[[str], str]
    has_system: bool = True


FORMS = {
    "ChatML": Form(template=CHATML, tokens=(), learnt=lambda content: f"{content}<|im_end|>"),
    "ChatML with tools": Form(template=CHATML_WITH_TOOLS, tokens=(), learnt=lambda content: f"{content}<|im_end|>"),
    "Llama 3": Form(
        template=LLAMA_3,
        tokens=("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
        learnt=lambda content: f"{content.strip()}<|eot_id|>",
    ),
    "Mistral": Form(template=MISTRAL, tokens=("<s>", "</s>"), learnt=lambda content: f" {content}</s>"),
    "Gemma": Form(
        template=GEMMA,
        tokens=("<bos>", "<start_of_turn>", "<end_of_turn>"),
        learnt=lambda content: f"{content.strip()}<end_of_turn>",
        has_system=False,
    ),
    "a template that marks the generation": Form(
        template=GENERATION, tokens=(), learnt=lambda content: f"{content}<|im_end|>"
    ),
}


def model_of(model: Path, directory: Path, template: str, tokens: tuple[str, ...] = ()) -> Path:
    """A copy of the tiny model's tokenizer with another template, and special tokens for it."""
    shutil.copytree(model, directory, ignore=shutil.ignore_patterns("*.safetensors"))
    (directory / "chat_template.jinja").write_text(template)
    file = directory / "tokenizer_config.json"
    config = json.loads(file.read_text()) | ({"extra_special_tokens": list(tokens)} if tokens else {})
    file.write_text(json.dumps(config))
    return directory
