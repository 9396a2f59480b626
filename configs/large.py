# SPDX-License-Identifier: Apache-2.0
"""BERT-large with the recipe of the paper (1810.04805, appendix A.2), as base.py.

    bert-jax pretrain large --data DATA --output RUN

The paper used 64 TPU chips for four days. Not yet run here; `bert-jax describe large` counts its FLOPs. On TPUs add
scan_layers=false: minutes more to compile, and faster steps by the compiler's estimate (docs/plan.md). On eight chips of
v5p those of the first phase are faster still with mesh.data=1 mesh.fsdp=8.
"""

from bert_jax.config import MODEL_SIZES, ModelConfig, PretrainConfig

config = PretrainConfig(model=ModelConfig(**MODEL_SIZES["large"]))
