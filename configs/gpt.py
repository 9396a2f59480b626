# SPDX-License-Identifier: Apache-2.0
"""A left-to-right transformer of GPT's size (Radford et al. 2018, section 4.1): 12 layers of 768, 12 heads, rows of 512 pieces,
batches of 64, dropout 0.1, peak 2.5e-4 after a warm-up of 2,000 steps and down along half a cosine, weight decay 0.01.

    bert-jax vocab --input TEXT --size 40000 --algorithm bpe --output VOCAB
    bert-jax prepare --input TEXT --vocab VOCAB --output DATA --objective ltr --sequence-length 512
    bert-jax pretrain gpt --data DATA --output RUN
    bert-jax generate RUN "The ship left the harbour"

What differs from the original: layers and embeddings are BERT's (LayerNorm after the embeddings, segments, [CLS] in front and
[SEP] behind each row, a dense layer before the output matrix), and its 100 epochs are 1,000,000 steps. Not yet run;
`bert-jax describe gpt` counts its FLOPs.
"""

from bert_jax.config import MODEL_SIZES, ModelConfig, ObjectiveConfig, OptimizerConfig, PhaseConfig, PretrainConfig

config = PretrainConfig(
    model=ModelConfig(vocab_size=40_000, **MODEL_SIZES["base"]),
    objective=ObjectiveConfig("ltr"),
    phases=(PhaseConfig(sequence_length=512, steps=1_000_000, batch_size=64),),
    optimizer=OptimizerConfig(learning_rate=2.5e-4, warmup_steps=2_000, schedule="cosine"),
)
