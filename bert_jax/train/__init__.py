# SPDX-License-Identifier: Apache-2.0
"""The run core: state, step, loop, optimizer, losses, metrics; and pre-training, put together from them."""
