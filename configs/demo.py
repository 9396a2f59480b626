# SPDX-License-Identifier: Apache-2.0
"""The demo: a BERT of two layers of 128 that learns from the documentation of installed Python packages in minutes.

    make demo
    bert-jax pretrain demo --data DATA --output RUN seed=1      # DATA has rows of 32 and 64 and up to 4,096 entries

Two CPU cores: seven minutes; docs/results.md has the scores. The paper's objective and architecture, and its two lengths of
rows; the comments tell what differs from its recipe.
"""

from dataclasses import replace

from bert_jax.config import MODEL_SIZES, ModelConfig, OptimizerConfig, PhaseConfig, PretrainConfig

SHORT = PhaseConfig(sequence_length=32, steps=1_000, batch_size=64, max_predictions_per_seq=5)
LONG = PhaseConfig(sequence_length=64, steps=150, batch_size=64, max_predictions_per_seq=10)

config = PretrainConfig(
    model=ModelConfig(
        vocab_size=4_096,
        **MODEL_SIZES["tiny"],
        max_position_embeddings=64,
        # Attention to neighbours forms in half the steps where positions stand out from words (docs/results.md).
        initializer_range=0.03,
        position_initializer_range=0.12,
        # About six passes over the text: dropout would only slow learning down.
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    ),
    # Attention to neighbours forms sooner among fewer tokens. Long rows come early too: positions that only they have are
    # trained by then, and the loss steps back by 0.1 nats at the last change, not by 0.8 (docs/data.md).
    phases=(SHORT, LONG, replace(SHORT, steps=1_350), replace(LONG, steps=400)),
    # b2=0.98: the second moment follows the gradient, which changes fast in so short a run.
    optimizer=OptimizerConfig(name="muon", learning_rate=4e-3, warmup_steps=100, b2=0.98),
    scan_layers=False,  # unrolled is a quarter faster on a CPU
    log_every=50,
    eval_every=300,
    eval_batches=40,
    save_every=300,
)
