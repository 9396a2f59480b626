# SPDX-License-Identifier: Apache-2.0
"""The network: encoder, heads, attention, dropout, and gradients of their own. Knows no data and names no mesh axis."""
