# SPDX-License-Identifier: Apache-2.0
"""Documents -> shards and their passport: what `bert-jax prepare` does. Knows no model."""
