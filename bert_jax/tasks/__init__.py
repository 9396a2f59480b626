# SPDX-License-Identifier: Apache-2.0
"""The tasks of fine-tuning: files in their official formats -> examples -> rows, and predictions back into files. No JAX."""
