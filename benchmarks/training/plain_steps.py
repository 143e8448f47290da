"""`loss_matches`: the steps of a plain PyTorch loop, one example at a time. The task is its argument."""

import json
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa

NO_LOSS = -100


def main() -> None:
    import torch

    task = json.loads(sys.argv[1])
    torch.set_num_threads(1)
    with pa.OSFile(str(Path(task["directory"]) / "examples.arrow")) as file:
        rows = pa.ipc.open_file(file).read_all().to_pylist()
    model, base = _loaded(task["model"]), _loaded(task["model"])
    before = _flat(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=task["learning_rate"], betas=(0.9, 0.95), weight_decay=0.0)
    is_pair = "chosen_ids" in rows[0]
    losses = []
    for numbers in task["steps"]:
        optimizer.zero_grad()
        step = [rows[number] for number in numbers]
        weight = len(step) if is_pair else sum(_num_learnt(row) for row in step)
        loss = 0.0
        for row in step:
            own = (_pair_loss(model, base, row, task["beta"]) if is_pair else _summed_loss(model, row)) / weight
            own.backward()
            loss += own.item()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss)
    moved = _flat(model) - before
    apart = _flat(_loaded(task["weights"])) - before - moved
    print(
        json.dumps({"losses": losses, "distance": moved.norm().item(), "apart": (apart.norm() / moved.norm()).item()})
    )


def _loaded(directory: str) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).train()


def _flat(model: Any) -> Any:
    import torch

    return torch.cat([parameter.detach().double().flatten() for parameter in model.parameters()])


def _num_learnt(row: Any) -> int:
    return sum(label != NO_LOSS for label in row["labels"])


def _summed_loss(model: Any, row: Any) -> Any:
    import torch
    from torch.nn.functional import cross_entropy

    # Padding begins where positions restart.
    length = next((place for place, at in enumerate(row["position_ids"]) if at == 0 and place), len(row["labels"]))
    ids, labels = (torch.tensor(row[name][:length]) for name in ("input_ids", "labels"))
    logits = model(input_ids=ids[None]).logits[0]
    return cross_entropy(logits[:-1], labels[1:], ignore_index=NO_LOSS, reduction="sum")


def _pair_loss(model: Any, base: Any, row: Any, beta: float) -> Any:
    import torch

    gains = []
    for side in ("chosen_ids", "rejected_ids"):
        with torch.no_grad():
            before = _logprob(base, row["prompt_ids"], row[side])
        gains.append(_logprob(model, row["prompt_ids"], row[side]) - before)
    return -torch.nn.functional.logsigmoid(beta * (gains[0] - gains[1]))


def _logprob(model: Any, prompt: list[int], answer: list[int]) -> Any:
    import torch

    ids = torch.tensor([*prompt, *answer])
    logprobs = model(input_ids=ids[None]).logits[0].log_softmax(-1)
    places = torch.arange(len(prompt), len(ids))
    return logprobs[places - 1, ids[places]].sum()


if __name__ == "__main__":
    main()
