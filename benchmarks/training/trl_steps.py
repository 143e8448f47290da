"""`loss_matches`: the steps as TRL's trainers take them, from the documents. The task is the argument."""

import json
import os
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")


def main() -> None:
    import torch
    import trl  # pyright: ignore[reportMissingImports] (a peer: make bench-setup)
    from datasets import Dataset
    from torch.utils.data import SequentialSampler
    from transformers import AutoModelForCausalLM, AutoTokenizer

    task = json.loads(sys.argv[1])
    torch.set_num_threads(1)
    directory = Path(task["directory"])
    documents = json.loads((directory / "documents.json").read_text())
    ordered = [documents[number] for numbers in task["steps"] for number in numbers]
    settings: dict[str, Any] = {
        "output_dir": str(directory / "trl"),
        "max_steps": len(task["steps"]),
        "per_device_train_batch_size": task["batch"],
        "learning_rate": task["learning_rate"],
        "lr_scheduler_type": "constant",
        "adam_beta2": 0.95,
        "max_grad_norm": 1.0,
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "max_length": None,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
    }
    is_pair = task["trainer"] == "DPOTrainer"
    if is_pair:
        config: Any = trl.DPOConfig(**settings, beta=task["beta"])
    else:
        config = trl.SFTConfig(
            **settings, assistant_only_loss="messages" in ordered[0], packing=False, padding_free=False
        )
    losses: list[float] = []

    class InOrder(getattr(trl, task["trainer"])):
        def _get_train_sampler(self, *given: Any, **named: Any) -> Any:
            return SequentialSampler(self.train_dataset)

        def training_step(self, *given: Any, **named: Any) -> Any:
            # What it logs is a mean over the steps since it logged last.
            loss = super().training_step(*given, **named)
            losses.append(float(loss))
            return loss

    trainer = InOrder(
        model=AutoModelForCausalLM.from_pretrained(task["model"], dtype=torch.float32),
        args=config,
        train_dataset=Dataset.from_list(ordered),
        processing_class=AutoTokenizer.from_pretrained(task["model"]),
    )
    trainer.train()
    sys.stdout.flush()
    print(json.dumps({"losses": losses, "version": trl.__version__}))


if __name__ == "__main__":
    main()
