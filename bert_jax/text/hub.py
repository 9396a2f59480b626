# SPDX-License-Identifier: Apache-2.0
"""Files of a data set on Hugging Face's hub: `hf://datasets/OWNER/NAME[@REVISION]/FILES`, as its own file system spells them.

They are downloaded once into the hub's cache on this machine (HF_HOME), of one commit, which the source's name tells. Who
may read what is not public is the hub's business too: HF_TOKEN, or `hf auth login`.
"""

import glob
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from bert_jax.base.errors import first_line, listed, TryAgain, UserError

HUB = "hf://"
_SPEC = re.compile(
    r"hf://datasets/(?P<name>[^/@]+/[^/@]+)(@(?P<revision>refs/(convert|pr)/\w+|[^/]+))?/(?P<files>.+)", re.DOTALL
)
_FORM = "hf://datasets/OWNER/NAME[@REVISION]/FILES, where FILES is a path or a pattern such as data/train-*.parquet"
_AS_PARQUET = {"~parquet": "refs/convert/parquet"}  # the branch that the hub itself makes of a data set of any format


def hub_files(spec: str, option: str) -> tuple[str, Path, list[Path]]:
    """Return the name with its commit, the folder of the copy, and the files in sorted order.

    Raises:
      UserError: another form; no such data set, revision or file, or no right to read it; the hub is not to be asked.
      TryAgain: the hub does not answer as it should.
    """
    if (match := _SPEC.fullmatch(spec)) is None:
        raise UserError(f"{option} {spec} is not of the form {_FORM}")
    if "**" in match["files"]:
        raise UserError(
            f"{option} {spec}: folders at any depth (**) are not looked up: name them, such as data/*/*.parquet"
        )
    with _asking(f"{option} {spec}"):
        from huggingface_hub import HfApi

        revision = _AS_PARQUET.get(match["revision"], match["revision"])
        hub = HfApi()
        found = hub.dataset_info(match["name"], revision=revision)
        names = sorted(file.rfilename for file in found.siblings or ())
        chosen = [
            name for name in names if PurePosixPath("/", name).match(f"/{match['files']}")
        ]  # from the first folder on
        if not chosen:
            raise UserError(f"{option} {spec} matches no file: that data set has {listed(names) or 'none'}")
        exactly = [glob.escape(name) for name in chosen]
        copy = hub.snapshot_download(match["name"], repo_type="dataset", revision=found.sha, allow_patterns=exactly)
    name = f"{HUB}datasets/{match['name']}@{found.sha}/{match['files']}"
    return name, Path(copy), [Path(copy, name) for name in chosen]


@contextmanager
def _asking(what: str) -> Iterator[None]:
    """Turn what the hub answers, or that it does not, into a line that begins with `what`."""
    from huggingface_hub import errors

    try:
        yield
    except errors.RepositoryNotFoundError as error:  # one that is gated is a kind of it
        raise UserError(f"{what}: {first_line(error)}: check the name, or log in by hf auth login") from None
    except errors.RevisionNotFoundError as error:
        raise UserError(f"{what}: {first_line(error)}: check what follows the @") from None
    except errors.OfflineModeIsEnabled:
        raise UserError(f"{what}: HF_HUB_OFFLINE keeps the hub from being asked: give the path of a copy") from None
    except (
        errors.HTTPError,
        errors.LocalEntryNotFoundError,
    ) as error:  # the second is what a download makes of the first
        if isinstance(error, errors.HfHubHTTPError) and error.response.status_code in range(400, 429):
            raise UserError(f"{what}: the hub refuses it ({first_line(error)})") from None
        raise TryAgain(f"{what}: the hub cannot be reached ({first_line(error)}): try again") from None
