# SPDX-License-Identifier: Apache-2.0
"""The demo: a BERT of two layers of 128 that learns from the documentation of installed Python packages in minutes.

    make demo
    bert-jax pretrain demo --data DATA --output RUN seed=1      # DATA has rows of 32 and 64 and up to 4,096 entries

Two CPU cores: five minutes. Held-out MLM loss 4.6 to 4.9 nats (unigram entropy 6.4), MLM accuracy 25 to 27 %, NSP accuracy
60 to 61 %. The paper's objective, architecture and two phases; the comments tell what differs from its recipe.
"""

from bert_jax.config import MODEL_SIZES, ModelConfig, OptimizerConfig, PhaseConfig, PretrainConfig

config = PretrainConfig(
    model=ModelConfig(
        vocab_size=4_096,
        **MODEL_SIZES["tiny"],
        max_position_embeddings=64,
        # At width 128 a deviation of 0.02 leaves attention so weak that it does not form in minutes.
        initializer_range=0.12,
        # About six passes over the text: dropout would only slow learning down.
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    ),
    phases=(
        # Attention to neighbours forms sooner among fewer tokens.
        PhaseConfig(sequence_length=32, steps=2_700, batch_size=64, max_predictions_per_seq=5),
        PhaseConfig(
            sequence_length=64,
            steps=600,
            batch_size=64,
            max_predictions_per_seq=10,
            learning_rate=1e-3,
            warmup_steps=60,
        ),
    ),
    # b2=0.98: the second moment follows the gradient, which changes fast in so short a run.
    optimizer=OptimizerConfig(learning_rate=2e-3, warmup_steps=300, b2=0.98),
    scan_layers=False,  # unrolled is a quarter faster on a CPU
    log_every=50,
    eval_every=300,
    eval_batches=40,
    save_every=300,
)
