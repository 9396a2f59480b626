# SPDX-License-Identifier: Apache-2.0
"""BERT-base with the recipe of the paper (1810.04805, appendix A.2): 1,000,000 steps of 256 sequences, 90 % of them at
length 128, the rest at 512; Adam without bias correction, peak 1e-4, warm-up 10,000.

    bert-jax prepare --input TEXT --vocab VOCAB --output DATA --sequence-length 128 512
    bert-jax pretrain base --data DATA --output RUN

The paper used 16 TPU chips for four days. Not yet run here; `bert-jax describe base` counts its FLOPs.
"""

from bert_jax.config import MODEL_SIZES, ModelConfig, PretrainConfig

config = PretrainConfig(model=ModelConfig(**MODEL_SIZES["base"]))
