# SPDX-License-Identifier: Apache-2.0
"""Shards of prepared data -> batches: which example when, rows, masks. NumPy only; knows no model."""
