# SPDX-License-Identifier: Apache-2.0
"""Text on disk -> documents: sources, streams, sentences, what a text is made of, and the demo's corpus."""
