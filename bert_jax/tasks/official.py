# SPDX-License-Identifier: Apache-2.0
"""Facts about the official files of the tasks in `table`: examples of each split, and its hash where one is published.

Counts are those of the papers and of GLUE's site: Wang et al. 2018, table 1; Rajpurkar et al. 2016 and 2018; Zellers et al.
2018; Tjong Kim Sang and De Meulder 2003 (sentences, without -DOCSTART- lines); Cui et al. 2019; Shao et al. 2018; Peng and
Dredze 2015. GLUE has no published hashes of its tables.
"""

from collections.abc import Mapping
from typing import NamedTuple


class OfficialFile(NamedTuple):
    """A split as it is published."""

    examples: int
    sha256: str | None = None  # of the plain file


def _counts(train: int, dev: int, test: int) -> dict[str, OfficialFile]:
    return {"train": OfficialFile(train), "dev": OfficialFile(dev), "test": OfficialFile(test)}


OFFICIAL: Mapping[str, Mapping[str, OfficialFile]] = {
    "cola": _counts(8_551, 1_043, 1_063),
    "sst2": _counts(67_349, 872, 1_821),
    "mrpc": _counts(3_668, 408, 1_725),
    "stsb": _counts(5_749, 1_500, 1_379),
    "qqp": _counts(363_846, 40_430, 390_965),
    "mnli": {
        "train": OfficialFile(392_702),
        "dev": OfficialFile(9_815),
        "dev_mismatched": OfficialFile(9_832),
        "test": OfficialFile(9_796),
        "test_mismatched": OfficialFile(9_847),
    },
    "qnli": _counts(104_743, 5_463, 5_463),
    "rte": _counts(2_490, 277, 3_000),
    "wnli": _counts(635, 71, 146),
    "ax": {"test": OfficialFile(1_104, "0e13510b1bb14436ff7e2ee82338f0efb0133ecf2e73507a697dc210db3f05fd")},
    "squad1": {
        "train": OfficialFile(87_599, "3527663986b8295af4f7fcdff1ba1ff3f72d07d61a20f487cb238a6ef92fd955"),
        "dev": OfficialFile(10_570, "95aa6a52d5d6a735563366753ca50492a658031da74f301ac5238b03966972c9"),
    },
    "squad2": {
        "train": OfficialFile(130_319, "68dcfbb971bd3e96d5b46c7177b16c1a4e7d4bdef19fb204502738552dede002"),
        "dev": OfficialFile(11_873, "80a5225e94905956a6446d296ca1093975c4d3b3260f1d6c8f68bc2ab77182d8"),
    },
    "cmrc": {
        "train": OfficialFile(10_142, "5497aa2f81908e31d6b0e27d99b1f90ab63a8f58fa92fffe5d17cf62eba0c212"),
        "dev": OfficialFile(3_219, "e9ff74231f05c230c6fa88b84441ee334d97234cbb610991cd94b82db00c7f1f"),
        "test": OfficialFile(1_002),  # the trial set
    },
    "drcd": _counts(26_936, 3_524, 3_493),
    "swag": _counts(73_546, 20_006, 20_005),
    "conll2003": _counts(14_041, 3_250, 3_453),
    "weibo": _counts(1_350, 270, 270),
}
