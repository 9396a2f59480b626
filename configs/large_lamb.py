# SPDX-License-Identifier: Apache-2.0
"""BERT-large with LAMB in large batches: 7,038 steps of 65,536 sequences of 128, then 1,563 steps of 32,768 sequences of
512 with a warm-up of its own, about the 8,599 steps that the abstract of 1904.00962 names for these batches. Learning
rates and warm-ups are a starting point and are not verified here.

    bert-jax prepare --input TEXT --vocab VOCAB --output DATA --sequence-length 128 512
    bert-jax pretrain large_lamb --data DATA --output RUN

128 micro-batches suit 16 chips of 16 GB, where phase 1 takes 16 rows at a time; on more or larger chips set fewer:
`bert-jax plan large_lamb --topology v6e:4x4` says how many rows fit. scan_layers=false compiles for minutes more, and then is
faster by a fifth, by the compiler's estimate (docs/plan.md). Not yet run here.
"""

from bert_jax.config import MODEL_SIZES, ModelConfig, OptimizerConfig, PhaseConfig, PretrainConfig

config = PretrainConfig(
    model=ModelConfig(**MODEL_SIZES["large"]),
    phases=(
        PhaseConfig(sequence_length=128, steps=7_038, batch_size=65_536, max_predictions_per_seq=20),
        PhaseConfig(
            sequence_length=512,
            steps=1_563,
            batch_size=32_768,
            max_predictions_per_seq=80,
            learning_rate=4e-3,
            warmup_steps=200,
        ),
    ),
    optimizer=OptimizerConfig(name="lamb", learning_rate=6e-3, warmup_steps=2_000),
    micro_batches=128,
    log_every=10,
    eval_every=500,
    save_every=200,
)
