# SPDX-License-Identifier: Apache-2.0
"""BERT-tiny (2 x 128), the paper's recipe shrunk to an hour on a few CPU cores; for trying things out.

bert-jax prepare --input TEXT --vocab VOCAB --output DATA --sequence-length 128
bert-jax pretrain tiny --data DATA --output RUN
"""

from bert_jax.config import MODEL_SIZES, ModelConfig, OptimizerConfig, PhaseConfig, PretrainConfig

config = PretrainConfig(
    model=ModelConfig(vocab_size=30_522, **MODEL_SIZES["tiny"]),
    phases=(PhaseConfig(sequence_length=128, steps=10_000, batch_size=64, max_predictions_per_seq=20),),
    optimizer=OptimizerConfig(learning_rate=1e-3, warmup_steps=1_000),
    eval_every=1_000,
    save_every=1_000,
)
