# SPDX-License-Identifier: Apache-2.0
"""Two layers of 128 that are worth fine-tuning after an hour on two CPU cores; docs/results.md has the scores.

    bert-jax vocab --input TEXT --size 8192 --output VOCAB
    bert-jax prepare --input TEXT --vocab VOCAB --output DATA --sequence-length 32 128
    bert-jax pretrain tiny_cpu --data DATA --output RUN
    bert-jax finetune sst2_tiny --data SST-2 --model RUN --output OUT

51.2 million tokens. As the demo, but longer: its comments tell what differs from the paper's recipe, and why.
"""

from dataclasses import replace

from bert_jax.config import MODEL_SIZES, ModelConfig, OptimizerConfig, PhaseConfig, PretrainConfig

SHORT = PhaseConfig(sequence_length=32, steps=1_000, batch_size=64, max_predictions_per_seq=5)
LONG = PhaseConfig(sequence_length=128, steps=150, batch_size=16, max_predictions_per_seq=20)
STEPS = ((1_000, 150), (2_000, 350), (3_000, 500), (3_000, 1_000), (3_000, 2_000), (3_000, 6_000))  # short, long; again

config = PretrainConfig(
    model=ModelConfig(
        vocab_size=8_192,
        **MODEL_SIZES["tiny"],
        max_position_embeddings=128,
        initializer_range=0.03,
        position_initializer_range=0.12,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    ),
    # Long rows from step 1,000 on, in turn with short ones: three quarters of the positions are theirs alone, and where they
    # come late the loss steps back by 1.4 nats, for 3,000 steps (docs/results.md).
    phases=tuple(replace(row, steps=steps) for pair in STEPS for row, steps in zip((SHORT, LONG), pair, strict=True)),
    optimizer=OptimizerConfig(name="muon", learning_rate=4e-3, warmup_steps=300, b2=0.98),
    scan_layers=False,
    log_every=50,
    eval_every=1_000,
    eval_batches=8,
    save_every=1_000,
    keep_checkpoints=2,
)
