# SPDX-License-Identifier: Apache-2.0
"""The run directory: the names of its files, checkpoints, curves, and reading what a run has written."""
