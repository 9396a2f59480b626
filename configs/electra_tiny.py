# SPDX-License-Identifier: Apache-2.0
"""Replaced-token detection (ELECTRA) on a CPU: a discriminator of 2 layers of 128 and a generator of 2 layers of 64.

    bert-jax prepare --input TEXT --vocab VOCAB --output DATA --objective rtd --sequence-length 32
    bert-jax pretrain electra_tiny --data DATA --output RUN          # up to 4,096 entries

docs/results.md has what it gives on the demo's text. The comments of configs/demo.py tell what differs from the paper's
recipe, and why. The generator is half as wide: a quarter of 2 heads would be none.
"""

from bert_jax.config import MODEL_SIZES, ModelConfig, ObjectiveConfig, OptimizerConfig, PhaseConfig, PretrainConfig

config = PretrainConfig(
    model=ModelConfig(
        vocab_size=4_096,
        **MODEL_SIZES["tiny"],
        max_position_embeddings=64,
        initializer_range=0.12,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        hidden_act="gelu_erf",
        pooler_act="gelu",
    ),
    objective=ObjectiveConfig(name="rtd", mask_share=0.85, random_share=0.0, generator_share=1 / 2),
    phases=(PhaseConfig(sequence_length=32, steps=1_600, batch_size=64, max_predictions_per_seq=5),),
    optimizer=OptimizerConfig(learning_rate=2e-3, warmup_steps=200, b2=0.98),
    scan_layers=False,
    log_every=50,
    eval_every=200,
    eval_batches=40,
    save_every=400,
)
