# SPDX-License-Identifier: Apache-2.0
"""ELECTRA-Base as published (2003.10555, table 6): the shape of BERT-base, 766,000 steps of 256 rows of 512 tokens.

    bert-jax prepare --input TEXT --vocab VOCAB --output DATA --objective rtd --sequence-length 512
    bert-jax pretrain electra_base --data DATA --output RUN
    bert-jax finetune TASK --data DIR --model RUN --output TUNED SETTINGS

SETTINGS as published: optimizer.learning_rate=1e-4 optimizer.layer_decay=0.8 optimizer.name=adamw_bert

Its generator is a third as wide: 12 layers of 256 on the same tables. Not trained here.
"""

from bert_jax.config import MODEL_SIZES, ModelConfig, ObjectiveConfig, OptimizerConfig, PhaseConfig, PretrainConfig

config = PretrainConfig(
    model=ModelConfig(**MODEL_SIZES["base"], hidden_act="gelu_erf", pooler_act="gelu"),
    objective=ObjectiveConfig(name="rtd", mask_share=0.85, random_share=0.0, generator_share=1 / 3),
    phases=(PhaseConfig(sequence_length=512, steps=766_000, batch_size=256, max_predictions_per_seq=77),),
    optimizer=OptimizerConfig(learning_rate=2e-4, warmup_steps=10_000),
)
