# SPDX-License-Identifier: Apache-2.0
"""A biLM (ELMo-like) that learns from the demo's text on a CPU: two LSTM layers of 512 units and 64 features in each direction.

bert-jax prepare --input TEXT --vocab VOCAB --output DATA --objective bilm --sequence-length 64   # up to 4,096 entries
bert-jax pretrain bilm_tiny --data DATA --output RUN
bert-jax finetune sst2 --data SST-2 --model RUN --output OUT layers=0,1,2 combine=mix optimizer.freeze=encoder

Two CPU cores: 11 minutes at 1.1 s a step. Held-out perplexity for each piece 208 forward and 206 backward (unigram model 561);
docs/results.md.
"""

from bert_jax.config import ModelConfig, ObjectiveConfig, OptimizerConfig, PhaseConfig, PretrainConfig

config = PretrainConfig(
    model=ModelConfig(
        vocab_size=4_096,
        hidden_size=128,
        num_hidden_layers=2,
        num_attention_heads=1,  # which it has none of
        lstm_units=512,
        max_position_embeddings=64,
        initializer_range=0.12,  # of the table, which is the output matrix too
        hidden_dropout_prob=0.0,
    ),
    objective=ObjectiveConfig("bilm"),
    phases=(PhaseConfig(sequence_length=64, steps=600, batch_size=32),),
    optimizer=OptimizerConfig(learning_rate=2e-3, warmup_steps=60, b2=0.98),
    log_every=50,
    eval_every=200,
    eval_batches=40,
    save_every=200,
)
