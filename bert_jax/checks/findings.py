# SPDX-License-Identifier: Apache-2.0
"""A finding, which is what a check returns: how serious it is, what was seen, the usual cause, and what to do."""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bert_jax.base.types import JsonObject
from bert_jax.runs.reading import Record

type Passport = Record
type Command = str | Callable[[], str]

PROBLEM, WARNING, NOTE, OK = SEVERITIES = ("problem", "warning", "note", "ok")


@dataclass(frozen=True)
class Finding:
    """The result of one check. `seen` holds the numbers that were measured; nothing else is claimed."""

    severity: str  # one of SEVERITIES
    subject: str  # what was checked, in a few words
    seen: str
    causes: str = ""  # what it usually comes from
    remedy: str = ""  # what to do about it
    command: str = ""  # that does it
    value: float | None = None  # measured, where one number decides
    threshold: float | None = None  # that it was compared with
    where: str = ""  # it was seen: a split, a phase, a step, a folder

    def as_record(self) -> JsonObject:
        """The finding for JSON."""
        return dataclasses.asdict(self)

    def at(self, where: str) -> "Finding":
        """Return the finding with its place; one that has a place already is put inside this one."""
        return dataclasses.replace(self, where=f"{where}: {self.where}" if self.where else where)

    @property
    def placed(self) -> str:
        """Return what was seen, after its place."""
        return f"{self.where}: {self.seen}" if self.where else self.seen

    def line(self) -> str:
        """The finding in one line, as `bert-jax prepare` warns."""
        return f"{self.placed}: {self.remedy}" if self.remedy else self.placed

    def sentence(self) -> str:
        """The finding as a sentence, which a command may follow."""
        line = self.line()
        return f"{line}:" if self.command else line if line.endswith(".") else f"{line}."


def serious(findings: Sequence[Finding]) -> list[Finding]:
    """Problems and warnings, problems first."""
    return [finding for severity in (PROBLEM, WARNING) for finding in findings if finding.severity == severity]


# Passport -> the command that prepares the data anew: a word that the new directory is named by, and changed settings,
# as the manifest names them.
type Remake = Callable[..., str]


def percent(value: float, digits: int = 1) -> str:
    """A share in percent."""
    return f"{100 * value:.{digits}f}%"


def quoted(text: str) -> str:
    """The beginning of a text in quotation marks."""
    return f"“{text if len(text) <= 60 else text[:59] + '…'}”"
