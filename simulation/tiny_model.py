"""A causal language model of about 1M parameters with its own tokenizer, made in-process in about a second.

Real enough for every stage: a Llama with grouped-query attention, a byte-level BPE, ChatML tokens and a chat template.
Deterministic: the same arguments give the same bytes, so weights digests can be compared across tests.
"""

from pathlib import Path
from typing import Any

from headrace.training.export import drop_library_versions

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
END_OF_TEXT, START_OF_TURN, END_OF_TURN = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
POSITIONS_MAX = 512

# What the tokenizer is trained on: the shape of the demo's prompts and glosses.
SENTENCES = [
    "system\nYou write short dictionary definitions.",
    'user\nDefine the noun "water wheel".',
    'user\nDefine the verb "to turn".',
    "assistant\na wheel that rotates by direct action of water",
    "a channel that carries water to a mill wheel and away from it again",
    "someone who operates a mill; especially one that grinds grain into flour",
    "an open vessel with a handle, used for carrying liquids",
    "move along a circular course, or cause something to move round an axis",
    "the quality of being quick and light in movement; nimbleness",
    "in a manner that is easy to understand, or to see, hear or feel",
    "of or relating to a river, its banks and the animals that live there",
    "0 1 2 3 4 5 6 7 8 9 10 23 456 7890",
]


def tiny_tokenizer(special_tokens: dict[str, str], *, vocab: int, num_positions: int, sequence: str = "") -> Any:
    """A byte-level BPE of `SENTENCES`. `vocab`: most ids.

    Args:
        special_tokens: `pad_token`, which also stands for what is unknown, `bos_token` and `eos_token`, in the order of
            their ids.
        sequence: what a text `$A` is made into, such as `<s> $A </s>`; empty: nothing is put around it.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    bpe.train_from_iterator(
        SENTENCES,
        trainers.BpeTrainer(
            vocab_size=vocab,
            special_tokens=list(special_tokens.values()),
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    if sequence:
        used = [(token, bpe.token_to_id(token)) for token in special_tokens.values() if token in sequence.split()]
        bpe.post_processor = processors.TemplateProcessing(single=sequence, special_tokens=used)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        unk_token=special_tokens["pad_token"],
        model_max_length=num_positions,
        clean_up_tokenization_spaces=False,
        **special_tokens,
    )


def build_tiny_model(directory: Path, *, vocab: int = 512, tied: bool = True) -> Path:
    """Writes model, tokenizer and chat template into `directory` (made if missing) and returns it.

    `vocab` is the embedding's size; the tokenizer uses at most as many ids. Weights are bfloat16 on disk. `tied`: the
    embedding is the output layer too.
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    directory.mkdir(parents=True, exist_ok=True)
    special_tokens = {"pad_token": END_OF_TEXT, "bos_token": START_OF_TURN, "eos_token": END_OF_TURN}
    tokenizer = tiny_tokenizer(special_tokens, vocab=vocab, num_positions=POSITIONS_MAX)
    tokenizer.chat_template = CHAT_TEMPLATE

    with torch.random.fork_rng():
        torch.manual_seed(7)
        model: Any = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=vocab,
                hidden_size=128,
                intermediate_size=384,
                num_hidden_layers=4,
                num_attention_heads=4,
                num_key_value_heads=2,
                max_position_embeddings=POSITIONS_MAX,
                tie_word_embeddings=tied,
                bos_token_id=tokenizer.bos_token_id,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
            )
        )
    model.to(torch.bfloat16).save_pretrained(directory, safe_serialization=True)
    tokenizer.save_pretrained(directory)
    drop_library_versions(directory)
    return directory
