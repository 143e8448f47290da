"""The `transformers` engine: any causal language model of the library, in this process, on a GPU or on CPU threads.

The decoding loop is our own, for two reasons. Each row draws from a generator of its own (Gumbel-max over the nucleus),
so a row's numbers depend neither on its place in the batch nor on its neighbours. And the loop costs a third less than
`generate` for small models on a CPU, where bookkeeping weighs as much as arithmetic.

What it does not promise: equal bytes in another batch. Padding and batch size change the last bits of a logit, and a
near tie then falls the other way; micro-batches are therefore planned from the partition alone.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headrace.chat.tokenizer import ChatTokenizer
from headrace.errors import EngineUnavailable, InvalidInput
from headrace.generation.campaign import engine_build
from headrace.generation.engines.base import GenerationRequest, GenerationResult, failed
from headrace.rollout.version_sets import EngineSpec, Member

if TYPE_CHECKING:
    import torch

# Nucleus candidates looked at before the whole vocabulary is sorted. At top_p 0.9 a language model's nucleus is nearly
# always smaller, and sorting 49,152 logits costs more than the rest of the step.
_NUCLEUS_GUESS = 512


@dataclass(kw_only=True)
class _Prompt:
    """One request, tokenized."""

    request: GenerationRequest
    token_ids: list[int]


class TransformersEngine:
    name = "transformers"

    def __init__(self, directory: Path, member: Member, spec: EngineSpec) -> None:
        """Load weights and tokenizer from `directory`.

        Raises:
            InvalidInput: the directory holds no causal language model with a chat template.
            EngineUnavailable: there is not enough memory.
        """
        # A sealed directory is whole: nothing may be asked of a hub, or wait for one.
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer
        from transformers.utils import logging

        logging.disable_progress_bar()
        self.build = engine_build(self.name)
        self._member = member
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        if self._device.type == "cpu":
            # The number of threads cuts sums into parts, so it is part of the version set.
            torch.set_num_threads(spec.num_threads)
        else:
            # Without it cuBLAS picks algorithms that add in another order from run to run.
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
            torch.use_deterministic_algorithms(True, warn_only=True)
        try:
            self._tokenizer: Any = AutoTokenizer.from_pretrained(directory, trust_remote_code=False)
            self._model: Any = AutoModelForCausalLM.from_pretrained(
                directory, dtype=getattr(torch, spec.dtype), trust_remote_code=False
            )
            self._model.eval().to(self._device)
        except (OSError, ValueError, KeyError) as error:
            raise InvalidInput(
                f"Weights {member.weights_digest[:12]} in {directory} cannot be loaded: {error}"
            ) from error
        except (MemoryError, torch.OutOfMemoryError) as error:
            raise EngineUnavailable(f"No memory to load {member.model_name} {member.model_version}: {error}") from error
        # What data prep made its ids with; transformers' own decodes what comes out.
        self._chat = ChatTokenizer(directory, date=spec.template_date)
        self._stop_ids = _stop_ids(self._tokenizer, self._model)
        self._tokens_max = int(getattr(self._model.config, "max_position_embeddings", 0)) or None

    @property
    def deterministic(self) -> bool:
        """On one kind of machine. Kernels of a GPU that have no deterministic form only warn."""
        return True

    def generate(self, requests: Sequence[GenerationRequest]) -> list[GenerationResult]:
        prompts = [_Prompt(request=request, token_ids=self._token_ids(request.prompt)) for request in requests]
        fitting = [prompt for prompt in prompts if self._fits(prompt)]
        made = iter(self._decode(fitting) if fitting else [])
        return [next(made) if self._fits(prompt) else self._too_long(prompt) for prompt in prompts]

    def close(self) -> None:
        del self._model

    def _token_ids(self, text: str) -> list[int]:
        turns = [{"role": "user", "content": self._member.user_template.format(text=text)}]
        if self._member.system_prompt:
            turns.insert(0, {"role": "system", "content": self._member.system_prompt})
        return self._chat.encode_chat(turns)

    def _fits(self, prompt: _Prompt) -> bool:
        limit = self._tokens_max
        return limit is None or len(prompt.token_ids) + self._member.decoding.max_new_tokens <= limit

    def _too_long(self, prompt: _Prompt) -> GenerationResult:
        return failed(
            f"prompt of {len(prompt.token_ids)} tokens and max_new_tokens={self._member.decoding.max_new_tokens} "
            f"exceed the model's {self._tokens_max} positions"
        )

    def _decode(self, prompts: Sequence[_Prompt]) -> list[GenerationResult]:
        """All prompts side by side, padded on the left, until each has its end token or the limit.

        Shapes: B rows, T tokens, V vocabulary.
        """
        import torch

        with torch.inference_mode():
            ids_BT, mask_BT = self._padded(prompts)  # noqa: N806 (shape letters)
            draw = _Draw([prompt.request.seed for prompt in prompts], self._member, self._device)
            stop_ids = torch.tensor(sorted(self._stop_ids), device=self._device)
            position_B1 = mask_BT.sum(-1, keepdim=True) - 1  # noqa: N806
            positions_BT = (mask_BT.cumsum(-1) - 1).clamp(min=0)  # noqa: N806
            done_B = torch.zeros(len(prompts), dtype=torch.bool, device=self._device)  # noqa: N806
            outputs: list[list[int]] = [[] for _ in prompts]
            cache = None
            for _ in range(self._member.decoding.max_new_tokens):
                step = self._model(
                    input_ids=ids_BT,
                    attention_mask=mask_BT,
                    position_ids=positions_BT,
                    past_key_values=cache,
                    use_cache=True,
                    logits_to_keep=1,
                )
                cache = step.past_key_values
                next_B = draw(step.logits[:, -1])  # noqa: N806
                for output, token, done in zip(outputs, next_B.tolist(), done_B.tolist(), strict=True):
                    if not done:
                        output.append(token)
                done_B |= torch.isin(next_B, stop_ids)  # noqa: N806
                if bool(done_B.all()):
                    break
                ids_BT = next_B.unsqueeze(-1)  # noqa: N806
                mask_BT = torch.cat([mask_BT, mask_BT.new_ones(len(prompts), 1)], dim=-1)  # noqa: N806
                position_B1 = position_B1 + 1  # noqa: N806
                positions_BT = position_B1  # noqa: N806
        return [self._result(prompt, output) for prompt, output in zip(prompts, outputs, strict=True)]

    def _padded(self, prompts: Sequence[_Prompt]) -> "tuple[torch.Tensor, torch.Tensor]":
        import torch

        length = max(len(prompt.token_ids) for prompt in prompts)
        pad = next(iter(self._stop_ids))
        ids = [[pad] * (length - len(prompt.token_ids)) + prompt.token_ids for prompt in prompts]
        mask = [[0] * (length - len(prompt.token_ids)) + [1] * len(prompt.token_ids) for prompt in prompts]
        return torch.tensor(ids, device=self._device), torch.tensor(mask, device=self._device)

    def _result(self, prompt: _Prompt, output: list[int]) -> GenerationResult:
        """The end token is counted, since it was made, and left out of the text."""
        stopped = bool(output) and output[-1] in self._stop_ids
        text = self._tokenizer.decode(output[:-1] if stopped else output, skip_special_tokens=True)
        return GenerationResult(
            text=text.strip(),
            num_prompt_tokens=len(prompt.token_ids),
            num_output_tokens=len(output),
            finish_reason="stop" if stopped else "length",
        )


class _Draw:
    """Picks each row's next token: the largest probability divided by an exponential draw of the row's generator.

    That is Gumbel-max, a draw from the distribution itself, and it is steady: a logit that moves by a rounding error
    moves the choice only at a near tie, where an inverse cumulative distribution would move it at every boundary.
    """

    def __init__(self, seeds: Sequence[int], member: Member, device: "torch.device") -> None:
        import torch

        self._decoding = member.decoding
        self._generators = [torch.Generator(device).manual_seed(seed) for seed in seeds]

    def __call__(self, logits_BV: "torch.Tensor") -> "torch.Tensor":  # noqa: N803
        import torch

        # float32, since bfloat16 has too few bits to add up a vocabulary's probabilities.
        logits_BV = logits_BV.float()  # noqa: N806
        if self._decoding.temperature == 0:
            return logits_BV.argmax(-1)
        weights_BV = torch.softmax(logits_BV / self._decoding.temperature, dim=-1)  # noqa: N806
        if self._decoding.top_p < 1:
            weights_BV = weights_BV * (weights_BV >= self._nucleus_floor(weights_BV))  # noqa: N806
        for row, generator in enumerate(self._generators):
            noise_V = torch.empty_like(weights_BV[row]).exponential_(generator=generator)  # noqa: N806
            # A zero would make a token of weight zero win: 0 / 0 is what argmax takes for the largest.
            weights_BV[row] /= noise_V.clamp_(min=1e-30)
        return weights_BV.argmax(-1)

    def _nucleus_floor(self, weights_BV: "torch.Tensor") -> "torch.Tensor":  # noqa: N803
        """The smallest probability in each row's nucleus: the fewest most likely tokens that reach top_p together."""
        num_looked_at = min(_NUCLEUS_GUESS, weights_BV.shape[-1])
        sorted_BK = weights_BV.topk(num_looked_at).values  # noqa: N806
        if bool((sorted_BK.sum(-1) < self._decoding.top_p).any()):
            sorted_BK = weights_BV.sort(descending=True).values  # noqa: N806
        before_BK = sorted_BK.cumsum(-1) - sorted_BK  # noqa: N806
        num_kept_B = (before_BK < self._decoding.top_p).sum(-1, keepdim=True)  # noqa: N806
        return sorted_BK.gather(-1, (num_kept_B - 1).clamp(min=0))


def _stop_ids(tokenizer: Any, model: Any) -> set[int]:
    """End tokens of tokenizer and model: either alone is often incomplete for chat models."""
    found = {tokenizer.eos_token_id}
    configured = getattr(model.generation_config, "eos_token_id", None)
    found.update(configured if isinstance(configured, list) else [configured])
    stop_ids = {int(token) for token in found if token is not None}
    if not stop_ids:
        raise InvalidInput("Neither tokenizer nor model names an end token; set eos_token in tokenizer_config.json.")
    return stop_ids
