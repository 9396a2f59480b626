# SPDX-License-Identifier: Apache-2.0
"""The option of every stage that copies from a bucket."""

import argparse
from collections.abc import Sequence


class _Bound(argparse.Action):
    """Bounds the cache as soon as the option is read: what is given before or after it is copied later."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[object] | None,
        option_string: str | None = None,
    ) -> None:
        from bert_jax.base.bucket_cache import set_cache_size

        assert isinstance(values, float)
        set_cache_size(values)


def add_bucket_options(parser: argparse.ArgumentParser) -> None:
    """Add `--cache-size`."""
    parser.add_argument(
        "--cache-size",
        action=_Bound,
        type=float,
        metavar="GB",
        default=argparse.SUPPRESS,
        help="most that copies of what lies on buckets take on this machine (default: 100)",
    )
