# SPDX-License-Identifier: Apache-2.0
"""What a benchmark found, as bench.json holds it.

format      FORMAT
command     how to run it again
conditions  the machine, versions and settings (conditions.py)
asked       subjects that were asked for
subjects    name -> records (see subjects/), the seconds they took, the load average after them; error, where the
            subject failed as a whole
"""

from typing import Any

FORMAT = 1
Report = dict[str, Any]


def failures(report: Report) -> list[tuple[str, str]]:
    """(what failed, its error), of whole subjects and of single records."""
    found = []
    for subject, entry in report["subjects"].items():
        found += [(f"{subject}, {record['name']}", record["error"]) for record in entry["records"] if "error" in record]
        if "error" in entry:
            found.append((subject, entry["error"]))
    return found
