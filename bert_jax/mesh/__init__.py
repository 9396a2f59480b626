# SPDX-License-Identifier: Apache-2.0
"""Devices: what they can do, the mesh over them, how arrays are sharded over it, several processes."""
