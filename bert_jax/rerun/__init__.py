# SPDX-License-Identifier: Apache-2.0
"""A run of any kind, taken again: a step (`replay`), all of it (`reproduce`), one batch by heart (`overfit`)."""
