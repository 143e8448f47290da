"""Ten steps of ours beside a plain PyTorch loop and TRL's trainers: the same losses, and the same weights.

Each case is a handful of documents as a user has them: prompts with completions, conversations with tools, plain texts,
preference pairs. Ours goes from the documents through data prep's own templates and masks into a gang of two ranks
(ZeRO stage 2, fp32); TRL gets the documents themselves and makes ids and masks by its own means, in the same order; the
plain loop gets our ids, one example at a time, without a batch, padding or DeepSpeed. TRL's DPO and the plain loop hold
a second model for what preferences are compared with.

A loss matches TRL's within 1e-5 nats at each step. Weights match the plain loop's within 1e-5 of the distance that it
moved: `distance` of all weights together, as one vector.
"""

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks.measuring import at_most, print_table, require_peers, rounded, run_child
from benchmarks.parts import Outcome
from benchmarks.training.parts import Given
from headrace.chat.tokenizer import ChatTokenizer
from headrace.clock import SystemClock
from headrace.handoff.versions import HandoffStore
from headrace.prep.corpus import Corpus
from headrace.prep.example_forms import ExamplePrompt
from headrace.prep.example_kinds import tokenized_documents
from headrace.prep.examples import packed
from headrace.prep.pairs import pairs_table
from headrace.store.local import LocalStore
from headrace.store.sealed_directory import open_directory, seal_directory
from headrace.training.attempts import read_curve
from headrace.training.devices import Devices
from headrace.training.examples import ExamplesInput
from headrace.training.order import SampleOrder
from headrace.training.recipe import Recipe
from headrace.training.session import TrainingRequest, Workplace, train
from simulation.tiny_model import SENTENCES, build_tiny_model

STEPS, BATCH, LEARNING_RATE, BETA = 10, 4, 1e-3, 0.1
_LENGTH = 512
_BAR = 1e-5
# Tells which turns are generated, for TRL; and a turn ends with its end token, for TRL learns what follows it, too.
_TEMPLATE = (
    "{% if tools %}{{ '<|im_start|>system\nTools: ' + (tools | tojson) + '<|im_end|>\n' }}{% endif %}"
    "{% for message in messages %}"
    "{{ ('' if loop.first else '\n') + '<|im_start|>' + message['role'] + '\n' }}"
    "{% if message['role'] == 'assistant' %}{% generation %}{{ message['content'] }}"
    "{% for call in message.tool_calls or [] %}{{ '<call>' + (call.function | tojson) }}{% endfor %}"
    "{{ '<|im_end|>' }}{% endgeneration %}"
    "{% else %}{{ message['content'] + '<|im_end|>' }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '\n<|im_start|>assistant\n' }}{% endif %}"
)
_TOOL = {
    "type": "function",
    "function": {
        "name": "look_up",
        "description": "Looks a word up.",
        "parameters": {"type": "object", "properties": {"word": {"type": "string"}}, "required": ["word"]},
    },
}


@dataclass(frozen=True, kw_only=True)
class Case:
    """`document`: a row of clean documents, and the same for TRL."""

    trainer: str
    objective: Any
    corpus: dict[str, Any]
    document: Callable[[int], tuple[dict[str, Any], dict[str, Any]]]


def _said(number: int) -> str:
    return f"{SENTENCES[3 + number % 8]} {number}"


def _completion(number: int) -> tuple[dict[str, Any], dict[str, Any]]:
    ours = {"document_id": str(number), "term": f"word {number}", "category": "noun", "text": _said(number)}
    prompt = [{"role": "user", "content": f'Define the noun "word {number}".'}]
    return ours, {"prompt": prompt, "completion": [{"role": "assistant", "content": _said(number)}]}


def _conversation(number: int) -> tuple[dict[str, Any], dict[str, Any]]:
    call = {"type": "function", "function": {"name": "look_up", "arguments": {"word": f"word {number}"}}}
    messages = [
        {"role": "user", "content": f"What is a word {number}?"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": _said(number)},
        {"role": "assistant", "content": f"It is {_said(number)}."},
        {"role": "user", "content": "And shorter?"},
        {"role": "assistant", "content": _said(number)[:20]},
    ]
    body = {"messages": messages, "tools": [_TOOL]}
    return {"document_id": str(number), "messages": json.dumps(body)}, body


def _plain(number: int) -> tuple[dict[str, Any], dict[str, Any]]:
    text = f"{_said(number)}; {_said(number + 3)}."
    return {"document_id": str(number), "text": text}, {"text": text}


def _pair(number: int) -> tuple[dict[str, Any], dict[str, Any]]:
    body = {
        "prompt": [{"role": "user", "content": f'Define the noun "word {number}".'}],
        "chosen": [{"role": "assistant", "content": _said(number)}],
        "rejected": [{"role": "assistant", "content": f"word {number} is a word word word"[: 12 + number]}],
    }
    return {"document_id": str(number), "messages": json.dumps(body)}, body


CASES = {
    "completion": Case(
        trainer="SFTTrainer",
        objective="sft",
        corpus={"prompt": ExamplePrompt(user='Define the {category} "{term}".')}
        | {"columns": {name: name for name in ("term", "category", "text")}},
        document=_completion,
    ),
    "conversation": Case(
        trainer="SFTTrainer",
        objective="sft",
        corpus={"example": {"kind": "conversation"}, "columns": {"messages": "messages"}},
        document=_conversation,
    ),
    "plain": Case(trainer="SFTTrainer", objective="pretrain", corpus={"example": {"kind": "plain"}}, document=_plain),
    "pair": Case(
        trainer="DPOTrainer",
        objective="preference",
        corpus={
            "example": {"kind": "pair"},
            "columns": {name: name for name in ("prompt", "chosen", "rejected")},
        },
        document=_pair,
    ),
}


def run(given: Given, directory: Path) -> Outcome:
    require_peers({"trl": "trl"})
    model = build_tiny_model(directory / "model")
    (model / "chat_template.jinja").write_text(_TEMPLATE)
    body, bars, rows = {}, {}, []
    for name, case in CASES.items():
        found = _compared(name, case, model, directory / name)
        body[name] = found
        bars |= {
            f"{name}_loss": at_most(found["loss_from_trl"], _BAR),
            f"{name}_weights": at_most(found["weights_from_plain"], _BAR),
        }
        rows.append([name, case.trainer, *(f"{found[key]:.2e}" for key in _SHOWN)])
    print_table(
        f"{STEPS} steps beside TRL and a plain PyTorch loop, fp32",
        ["documents", "TRL's trainer", "largest difference of a step's loss", "from plain", "weights, of the distance"],
        rows,
        caption="losses in nats; weights beside the plain loop's",
    )
    return Outcome(body=body, bars=bars)


_SHOWN = ("loss_from_trl", "loss_from_plain", "weights_from_plain")


def _compared(name: str, case: Case, model: Path, directory: Path) -> dict[str, Any]:
    documents = [case.document(number) for number in range(STEPS * BATCH)]
    recipe = Recipe(
        name=name,
        model="tiny",
        objective=case.objective,
        steps=STEPS,
        batch=BATCH,
        learning_rate=LEARNING_RATE,
        schedule="constant",
        precision="fp32",
        seed=5,
    )
    table = _examples(case, [ours for ours, _ in documents], model)
    losses, weights = _ours(recipe, table, model, directory)
    order = SampleOrder(seed=recipe.seed, num_sequences=len(documents), batch=BATCH, world_size=2, micro_batch=1)
    numbers = [order.batch(step).tolist() for step in range(STEPS)]
    task = {"model": str(model), "weights": str(weights), "directory": str(directory), "steps": numbers}
    task |= {"batch": BATCH, "learning_rate": LEARNING_RATE, "beta": BETA, "trainer": case.trainer}
    with pa.OSFile(str(directory / "examples.arrow"), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)
    (directory / "documents.json").write_text(json.dumps([theirs for _, theirs in documents]))
    plain = run_child("benchmarks.training.plain_steps", task).body
    trl = run_child("benchmarks.training.trl_steps", task).body
    return {
        "loss_from_trl": rounded(_apart(losses, trl["losses"])),
        "loss_from_plain": rounded(_apart(losses, plain["losses"])),
        "weights_from_plain": rounded(plain["apart"]),
        "distance": rounded(plain["distance"]),
        "losses": [rounded(loss, 6) for loss in losses],
        "trl": trl["version"],
    }


def _apart(ours: Sequence[float], theirs: Sequence[float]) -> float:
    return float(np.abs(np.array(ours) - np.array(theirs)).max())


def _examples(case: Case, documents: list[dict[str, Any]], model: Path) -> pa.Table:
    """One example a row, in the documents' order, as data prep makes them; the last row again, held out."""
    from headrace.user_files.shapes import chosen

    corpus: Corpus = chosen(Corpus, {"name": "documents", "files": ["x"], **case.corpus})
    tokenizer = ChatTokenizer(model)
    examples = list(tokenized_documents(corpus, documents, tokenizer))
    if case.objective == "preference":
        return pa.concat_tables([pairs_table("train", examples), pairs_table("heldout", examples[-1:])])
    rows = [packed("train", [example], _LENGTH, pad_id=tokenizer.pad_id) for example in examples]
    return pa.concat_tables([*rows, packed("heldout", examples[-1:], _LENGTH, pad_id=tokenizer.pad_id)])


def _ours(recipe: Recipe, table: pa.Table, model: Path, directory: Path) -> tuple[list[float], Path]:
    store = LocalStore(directory / "store")
    handoff = HandoffStore(store).publish("training_examples", "shard-00", table, code_version="1", run_id="benchmark")
    pinned = ExamplesInput(partition="shard-00", version=handoff.version, content_digest=handoff.content_digest)
    request = TrainingRequest(recipe=recipe, base_weights_digest=seal_directory(store, model).digest, inputs=(pinned,))
    place = Workplace(
        store=store,
        work_root=directory / "work",
        devices=Devices(num_gpus=0, memory_mib=None),
        environment=dict(os.environ),
        clock=SystemClock(),
        run_id="benchmark",
    )
    result = train(request, place, say=lambda _: None).result
    losses = [row["loss"] for row in read_curve(store, result)]
    return losses, open_directory(store, result.weights_digest)
