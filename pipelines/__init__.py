# SPDX-License-Identifier: Apache-2.0
"""The runnable stages, one file each: parse the command line, build, call the library."""
