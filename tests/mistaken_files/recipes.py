"""Mistakes in the file of a training recipe: what stands in it, what a person wrote instead, and what is told.

An empty text for what stands in it: the whole file. Told are line and column, and parts of the sentence.
"""

FILE = """\
name: define
model: tiny
steps: 10
batch: 4
learning_rate: 1.0e-3
warmup_steps: 2
freeze: [model.embed_tokens.]
ranks: 2
"""
MISTAKES = [
    ("learning_rate: 1.0e-3", "learning_rate: 3", "5:16", "learning_rate must be above 0 and at most 1 … got 3"),
    ("learning_rate: 1.0e-3", "learning_rate: 0", "5:16", "learning_rate must be above 0 … got 0"),
    ("warmup_steps: 2", "warmup_steps: 20", "6:15", "warmup_steps must not be above steps=10 … =20"),
    ("warmup_steps: 2", "beta2: 1", "6:8", "beta2 must be at least 0 and below 1 … got 1"),
    ("[model.embed_tokens.]", "['']", "7:9", "freeze must list prefixes … got ['']"),
    ("model: tiny", "model: a--b", "2:8", "model must be lower-case letters … got 'a--b'"),
    ("ranks: 2", "memory_mib_per_rank: -1", "8:22", "must be null or at least 1 … got -1"),
    ("name: define", "name: define hot", "1:7", "name must be lower-case letters … got 'define hot'"),
    ("model: tiny\n", "", "1:", "lacks the key 'model'"),
    ("steps: 10", "steps: 0", "3:8", "steps or epochs must say … got steps=0"),
    ("steps: 10", "steps: 10k", "3:8", "steps must be a whole number … got '10k'"),
    ("steps: 10", "steps: 1e3", "3:8", "steps must be a whole number … got 1000.0"),
    ("steps: 10", "step: 10", "3:1", "unknown key 'step' … did you mean 'steps'?"),
    ("steps: 10", "epochs: 0", "3:9", "epochs must be null or above 0, got 0"),
    ("steps: 10", "steps: 010", "3:8", "010 … 0o10"),
    ("batch: 4", "batch: 4.0", "4:8", "batch must be a whole number … got 4.0"),
    ("batch: 4", "batch: -4", "4:8", "batch must be at least 1 … got -4"),
    ("batch: 4", "batch: 3", "4:8", "batch=3 … does not divide … multiple of 2"),
    ("batch: 4", "batch_size: 4", "4:1", "unknown key 'batch_size' … did you mean 'batch'?"),
    ("batch: 4", "batch: 4\nmicro_batch: 3", "4:8", "batch=4 … does not divide … multiple of 6"),
    ("learning_rate: 1.0e-3", "lr: 1.0e-3", "5:1", "unknown key 'lr' … learning_rate"),
    ("learning_rate: 1.0e-3", "learning_rate: 1.0 e-3", "5:16", "learning_rate must be a number … got '1.0 e-3'"),
    ("learning_rate: 1.0e-3", "learning_rate: 10^-3", "5:16", "learning_rate must be a number … got '10^-3'"),
    ("learning_rate: 1.0e-3", "learning_rate: -0.001", "5:16", "learning_rate must be above 0 … got -0.001"),
    ("learning_rate: 1.0e-3", "learning_rate: '1e-3'", "5:16", "learning_rate must be a number … got '1e-3'"),
    ("learning_rate: 1.0e-3", "learning_rate: 1e400", "5:16", "learning_rate must be a number … got inf"),
    ("warmup_steps: 2", "warmup_steps: 0.1", "6:15", "warmup_steps must be a whole number … got 0.1"),
    ("warmup_steps: 2", "warmup: 2", "6:1", "unknown key 'warmup' … did you mean 'warmup_steps'?"),
    (
        "warmup_steps: 2",
        "schedule: triangle",
        "6:11",
        "schedule must be one of cosine, constant, linear … got 'triangle'",
    ),
    ("warmup_steps: 2", "precision: fp8", "6:12", "precision must be one of bf16, fp32, fp16 … got 'fp8'"),
    ("warmup_steps: 2", "precision: BF16", "6:12", "precision must be one of bf16, fp32, fp16 … got 'BF16'"),
    ("warmup_steps: 2", "precision: 16", "6:12", "precision must be one of bf16, fp32, fp16 … got 16"),
    ("warmup_steps: 2", "zero_stage: 4", "6:13", "zero_stage must be between 0 and 3 … got 4"),
    ("warmup_steps: 2", "zero_stage: '2'", "6:13", "zero_stage must be a whole number … got '2'"),
    ("warmup_steps: 2", "betas: [0.9, 0.95]", "6:1", "unknown key 'betas' … did you mean 'beta2'?"),
    ("warmup_steps: 2", "seed: -1", "6:7", "seed must be between 0 and … got -1"),
    ("warmup_steps: 2", "seed: random", "6:7", "seed must be a whole number … got 'random'"),
    ("warmup_steps: 2", "clip_norm: -1", "6:12", "clip_norm must be at least 0 … got -1"),
    ("warmup_steps: 2", "learning_rate_end: 1.0e+1", "6:20", "learning_rate_end must be between 0 and 1 … got 10.0"),
    ("warmup_steps: 2", "checkpoint_every: 0", "6:19", "checkpoint_every must be at least 1 … got 0"),
    ("warmup_steps: 2", "step_timeout_seconds: 15m", "6:23", "step_timeout_seconds must be a whole number … got '15m'"),
    ("warmup_steps: 2", "base_model: ./models/nothing", "6:13", "no base model ./models/nothing"),
    ("warmup_steps: 2", "base_model: [tiny]", "6:13", "base_model must be null or a string … got ['tiny']"),
    ("[model.embed_tokens.]", "model.embed_tokens.", "7:9", "freeze must be a list … got 'model.embed_tokens.'"),
    ("[model.embed_tokens.]", "[0, 1]", "7:10", "freeze[0] must be a string … got 0"),
    ("[model.embed_tokens.]", "true", "7:9", "freeze must be a list … got True"),
    ("ranks: 2", "ranks: 0", "8:8", "ranks must be null or at least 1 … got 0"),
    ("ranks: 2", "ranks: auto", "8:8", "ranks must be null or a whole number … got 'auto'"),
    (
        "ranks: 2",
        "memory_mib_per_rank: 80GB",
        "8:22",
        "memory_mib_per_rank must be null or a whole number … got '80GB'",
    ),
    ("ranks: 2", "ranks: 2\nname: other", "9:1", "the key 'name' stands twice"),
]
