# SPDX-License-Identifier: Apache-2.0
"""What can be configured: frozen dataclasses, checked on construction, to and from files and the command line.

A configuration file imports from here. The library imports from the modules, so that a step knows no more than it needs.
"""

from bert_jax.config.pretrain import (
    MeshConfig,
    MODEL_SIZES,
    ModelConfig,
    ObjectiveConfig,
    OBJECTIVES,
    OptimizerConfig,
    PhaseConfig,
    PretrainConfig,
)

__all__ = [
    "MODEL_SIZES",
    "OBJECTIVES",
    "MeshConfig",
    "ModelConfig",
    "ObjectiveConfig",
    "OptimizerConfig",
    "PhaseConfig",
    "PretrainConfig",
]
