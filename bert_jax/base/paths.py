# SPDX-License-Identifier: Apache-2.0
"""Paths as users give them: each one, on the command line or to a function, is made by a function of this module.

`pathlib` takes `gs://bucket/run` for the folder `gs:` of this machine, and would make it. So an address is told from a
path here, before anything is made of it.
"""

import os
import re
from pathlib import Path, PurePath
from typing import cast, TYPE_CHECKING, TypeGuard

from bert_jax.base.errors import UserError

if TYPE_CHECKING:
    from bert_jax.base.buckets import BucketPath

# Read when the first address is met, one of Orbax's too: TensorFlow's file system would take over where it is installed, and
# gcsfs would ask every bucket by gRPC whether it is zonal, beside the HTTP that all else goes by.
os.environ.setdefault("EPATH_USE_TF", "0")
os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")

# `gs:/bucket` is what pathlib has left of `gs://bucket`. One letter is a drive of Windows; tfds:NAME has no slash, and
# hf:/folder is a folder that `datasets` has saved.
_ADDRESS = re.compile(r"(?!hf:/[^/])([A-Za-z][A-Za-z0-9+.-]+):/")
_MOUNTS = {
    "gs": "mount the bucket (gcsfuse) or copy it here (gcloud storage cp -r)",
    "s3": "mount the bucket (mountpoint-s3) or copy it here (aws s3 cp --recursive)",
    "az": "mount the container (blobfuse2) or copy it here",
    "abfs": "mount the container (blobfuse2) or copy it here",
    "hdfs": "mount it (hdfs-fuse, an NFS gateway) or copy it here (hdfs dfs -get)",
    "file": "leave file:// away",
    "hf": "text of a data set is hf://datasets/OWNER/NAME/FILES; download a model (hf download OWNER/NAME)",
}
_ANY_MOUNT = "mount what it stands for, or download it"


def any_path(given: str | os.PathLike[str]) -> Path:
    """Return a path of this machine, or of a bucket by its address gs://bucket/name.

    The second has the methods of pathlib (`buckets.BucketPath`), and is no file that the system could open: see `on_bucket`.

    Raises:
      UserError: another address; a bucket that is not there or may not be read.
      TryAgain: storage does not answer.
    """
    text = os.fspath(given)
    if not text.startswith("gs://"):
        return local_path(text)
    from bert_jax.base.buckets import bucket_path

    return cast(Path, bucket_path(text))


def absolute(path: Path) -> str:
    """Return a path as a record keeps it, whatever folder the next command is given in."""
    return str(path) if on_bucket(path) else os.path.abspath(path)


def any_text(given: str) -> str:
    """Return what names files, folders, a glob or `tfds:NAME`, here, on a bucket or on Hugging Face's hub, as it was given.

    Raises:
      UserError: it is another address.
    """
    return given if given.startswith(("gs://", "hf://datasets/")) else local_text(given)


def on_bucket(path: PurePath) -> "TypeGuard[BucketPath]":
    """Whether a path is an address of a bucket."""
    return not isinstance(path, Path)


def local_path(given: str | os.PathLike[str]) -> Path:
    """Return a path of this machine.

    Raises:
      UserError: it is an address, such as gs://bucket/name or https://...; the line says how its files come here.
    """
    return Path(local_text(os.fspath(given)))


def local_text(given: str) -> str:
    """Return what names files, folders, a glob or `tfds:NAME`, as it was given; raises as `local_path`."""
    if (found := _ADDRESS.match(given)) is not None:
        scheme = found[1].lower()
        if scheme == "gs" and not given.startswith("gs://"):
            raise UserError(f"{given}: give an address as text, with two slashes: gs://{given[3:].lstrip('/')}")
        raise UserError(
            f"{given}: addresses of {scheme}:// are not read or written here: {_MOUNTS.get(scheme, _ANY_MOUNT)}, and give"
            " that path"
        )
    return given
