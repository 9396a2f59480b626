# SPDX-License-Identifier: Apache-2.0
"""Configuration: frozen dataclasses, checked on construction, to and from files and the command line.

A configuration file imports from here. The library imports from the modules, so that a step knows no more than it needs.
"""

from bert_jax.config.distill import PretrainDistillConfig
from bert_jax.config.finetune import FinetuneConfig, FinetuneRecipe
from bert_jax.config.model import MODEL_SIZES, ModelConfig
from bert_jax.config.objective import ObjectiveConfig, OBJECTIVES
from bert_jax.config.pretrain import PhaseConfig, PretrainConfig
from bert_jax.config.training import MeshConfig, OptimizerConfig

__all__ = [
    "MODEL_SIZES",
    "OBJECTIVES",
    "FinetuneConfig",
    "FinetuneRecipe",
    "MeshConfig",
    "ModelConfig",
    "ObjectiveConfig",
    "OptimizerConfig",
    "PhaseConfig",
    "PretrainConfig",
    "PretrainDistillConfig",
]
