"""What a user writes who has a model and no engine: loops over the libraries, at their best.

Each works on `texts` with a seed a row, one thread and float32, and keeps what it made as files in memory.
"""

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

# Rows of a batch → what was made of all texts.
Loop = Callable[[int], list[Any]]


def pixels(directory: Path, texts: Sequence[str], *, side: int, steps: int, guidance: float) -> Loop:
    """Pictures in pixels by a PRX pipeline, whose own call takes one text with guidance.

    The empty text is encoded once for all.
    """
    import torch

    pipeline = _pipeline(directory)
    transformer, scheduler, device = pipeline.transformer, pipeline.scheduler, torch.device("cpu")

    @torch.inference_mode()
    def made(batch_rows: int) -> list[bytes]:
        files = []
        empty, empty_mask, _, _ = pipeline.encode_prompt("", device, False)
        for start in range(0, len(texts), batch_rows):
            rows = list(texts[start : start + batch_rows])
            known, known_mask, _, _ = pipeline.encode_prompt(rows, device, False)
            states = torch.cat([empty.expand(len(rows), -1, -1), known])
            mask = torch.cat([empty_mask.expand(len(rows), -1), known_mask])
            noise = [
                torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(start + row))
                for row in range(len(rows))
            ]
            x = torch.cat(noise) * pipeline.config.noise_scale
            scheduler.set_timesteps(steps)
            for t in scheduler.timesteps:
                share = t.float() / scheduler.config.num_train_timesteps
                seen = transformer(torch.cat([x, x]), share.repeat(2 * len(rows)), states, attention_mask=mask).sample
                without, with_text = seen.chunk(2)
                clean = without + guidance * (with_text - without)
                x = scheduler.step((x - clean) / share.clamp(min=0.05), t, x).prev_sample
            files += [_png(image) for image in pipeline.image_processor.postprocess(x, output_type="pil")]
        return files

    return made


def latents(directory: Path, texts: Sequence[str], *, side: int, steps: int, guidance: float) -> Loop:
    """Pictures by the pipeline's own call."""
    import torch

    pipeline = _pipeline(directory)

    def made(batch_rows: int) -> list[bytes]:
        files = []
        for start in range(0, len(texts), batch_rows):
            rows = list(texts[start : start + batch_rows])
            generators = [torch.Generator().manual_seed(start + row) for row in range(len(rows))]
            given = {"height": side, "width": side, "num_inference_steps": steps, "guidance_scale": guidance}
            files += [_png(image) for image in pipeline(rows, generator=generators, **given).images]
        return files

    return made


def texts_by_length(directory: Path, prompts: Sequence[str], *, num_tokens: int) -> Loop:
    """Answers by `generate`, on prompts sorted by their length. An item for each token."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(str(directory), padding_side="left")
    model: Any = AutoModelForCausalLM.from_pretrained(str(directory), dtype=torch.float32).eval()
    asked = [
        tokenizer.apply_chat_template([{"role": "user", "content": one}], add_generation_prompt=True, tokenize=False)
        for one in prompts
    ]
    asked.sort(key=lambda text: len(tokenizer(text)["input_ids"]))

    @torch.inference_mode()
    def made(batch_rows: int) -> list[None]:
        num_made = 0
        torch.manual_seed(0)
        for start in range(0, len(asked), batch_rows):
            batch = tokenizer(
                asked[start : start + batch_rows], padding=True, return_tensors="pt", add_special_tokens=False
            )
            output = model.generate(
                input_ids=batch["input_ids"],
                attention_mask=batch["attention_mask"],
                do_sample=True,
                temperature=0.7,
                top_p=0.9,
                top_k=0,
                max_new_tokens=num_tokens,
                pad_token_id=tokenizer.pad_token_id,
            )
            answers = output[:, batch["input_ids"].shape[1] :]
            tokenizer.batch_decode(answers, skip_special_tokens=True)
            # Each token up to the one that ends its answer.
            ended = (answers == tokenizer.eos_token_id).cumsum(dim=1)
            num_made += int((ended == 0).sum() + (ended[:, -1] > 0).sum())
        return [None] * num_made

    return made


def speech(texts: Sequence[str]) -> Loop:
    """Recordings by the package's own call."""
    from hibari import Hibari, write_wav

    voice = Hibari(threads=1)

    def made(batch_rows: int) -> list[bytes]:
        files = []
        for seed, text in enumerate(texts):
            file = io.BytesIO()
            write_wav(file, voice(text, seed=seed))
            files.append(file.getvalue())
        return files

    return made


def _pipeline(directory: Path) -> Any:
    from diffusers.pipelines.pipeline_utils import DiffusionPipeline

    found: Any = DiffusionPipeline.from_pretrained(str(directory), local_files_only=True)
    found.set_progress_bar_config(disable=True)
    return found


def _png(image: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()
