# SPDX-License-Identifier: Apache-2.0
"""From text to batches: reading documents, writing shards of examples, masking, feeding. Knows no model."""
