# SPDX-License-Identifier: Apache-2.0
"""ELECTRA-Small as published (2003.10555, table 6; the defaults of google-research/electra): 14 million parameters.

    bert-jax prepare --input TEXT --vocab VOCAB --output DATA --objective rtd --sequence-length 128
    bert-jax pretrain electra_small --data DATA --output RUN
    bert-jax finetune TASK --data DIR --model RUN --output TUNED SETTINGS

SETTINGS as published: optimizer.learning_rate=3e-4 optimizer.layer_decay=0.8 optimizer.name=adamw_bert

The discriminator: 12 layers of 256 on tables of 128. Its generator: a quarter as wide, 12 layers of 64, on the same tables.
Published, on English Wikipedia and BooksCorpus: four days on one V100, and a mean of 79.9 on the dev sets of GLUE. Not
trained here. Rows are whole sentences of one segment, where the original has two segments of a text that follow each other.
"""

from bert_jax.config import ModelConfig, ObjectiveConfig, OptimizerConfig, PhaseConfig, PretrainConfig

config = PretrainConfig(
    model=ModelConfig(
        num_hidden_layers=12,
        hidden_size=256,
        num_attention_heads=4,
        intermediate_size=1024,
        embedding_size=128,
        hidden_act="gelu_erf",
        pooler_act="gelu",
    ),
    # Of the masked tokens 85 % are shown as [MASK] and 15 % as they are; none is replaced at random.
    objective=ObjectiveConfig(name="rtd", mask_share=0.85, random_share=0.0, generator_share=1 / 4),
    phases=(PhaseConfig(sequence_length=128, steps=1_000_000, batch_size=128, max_predictions_per_seq=20),),
    optimizer=OptimizerConfig(learning_rate=5e-4, warmup_steps=10_000),
)
