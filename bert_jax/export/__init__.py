# SPDX-License-Identifier: Apache-2.0
"""A model into other hands: ONNX and StableHLO, each with a certificate; int8 where its quality holds."""
