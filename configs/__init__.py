# SPDX-License-Identifier: Apache-2.0
"""Recipes: of pre-training one file each, with a frozen `PretrainConfig` named `config`; of fine-tuning all in finetune.py."""
