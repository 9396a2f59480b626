# SPDX-License-Identifier: Apache-2.0
"""Two layers of 128 that are worth fine-tuning after an hour on two CPU cores; docs/results.md has the scores.

    bert-jax vocab --input TEXT --size 8192 --output VOCAB
    bert-jax prepare --input TEXT --vocab VOCAB --output DATA --sequence-length 32 128
    bert-jax pretrain tiny_cpu --data DATA --output RUN
    bert-jax finetune sst2_tiny --data SST-2 --model RUN --output OUT

38.9 million tokens. As the demo, but longer: its comments tell what differs from the paper's recipe, and why.
"""

from bert_jax.config import MODEL_SIZES, ModelConfig, OptimizerConfig, PhaseConfig, PretrainConfig

config = PretrainConfig(
    model=ModelConfig(
        vocab_size=8_192,
        **MODEL_SIZES["tiny"],
        max_position_embeddings=128,
        initializer_range=0.12,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    ),
    phases=(
        PhaseConfig(sequence_length=32, steps=14_000, batch_size=64, max_predictions_per_seq=5),
        # Three quarters of the positions are new: the loss rises from 4.4 to more than 5 nats, then falls again.
        PhaseConfig(
            sequence_length=128,
            steps=5_000,
            batch_size=16,
            max_predictions_per_seq=20,
            learning_rate=1e-3,
            warmup_steps=200,
        ),
    ),
    optimizer=OptimizerConfig(learning_rate=1.5e-3, warmup_steps=300, b2=0.98),
    scan_layers=False,
    log_every=50,
    eval_every=1_000,
    eval_batches=8,
    save_every=1_000,
    keep_checkpoints=2,
)
