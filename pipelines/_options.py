# SPDX-License-Identifier: Apache-2.0
"""Options that the command lines of all stages share: one line for what is wrong, and one word for one thing.

docs/cli.md has the words; a test holds every parser against it.
"""

import argparse
import difflib
import sys
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn, TYPE_CHECKING

from bert_jax.base.errors import UserError

if TYPE_CHECKING:
    from bert_jax.config.training import TrainingConfig

# What one stage calls an option -> what another one does.
OTHER_WORDS = {
    "input": ("text",),
    "text": ("input",),
    "output": ("destination",),
    "model": ("source",),
    "vocab_size": ("size",),
    "source": ("model",),
    "checkpoint": ("model", "source"),
    "run": ("model", "path"),
}


class StageParser(argparse.ArgumentParser):
    """The parser of a stage, whose refusals are one line and say what an option or a setting is called here."""

    config: "TrainingConfig | None" = None  # whose settings the stage takes as KEY=VALUE

    def parse_with_settings(self, argv: Sequence[str]) -> argparse.Namespace:
        """Parse options and settings in any order.

        Raises:
          UserError: a setting that is an option of the stage.
        """
        arguments = self.parse_intermixed_args(argv)
        known = set(self._settings())
        for word in arguments.settings:
            key, _, value = word.partition("=")
            action = self._option_string_actions.get(f"--{key.replace('_', '-')}")
            if action is not None and key not in known:
                value = "" if action.nargs == 0 else f" {value}"
                raise UserError(f"{key} is an option of this stage: write {action.option_strings[0]}{value}")
        return arguments

    def error(self, message: str) -> NoReturn:
        """Refuse a command line in one line."""
        raise UserError(f"{message}{self._hint(message)} (see {self.prog} --help)")

    def _settings(self) -> list[str]:
        if self.config is None:
            return []
        from bert_jax.config.settings import flatten, to_dict  # imports NumPy

        return [key for key, _ in flatten(to_dict(self.config))]

    def _hint(self, message: str) -> str:
        """Say what an unknown option is called here."""
        unknown = message.removeprefix("unrecognized arguments: ")
        if unknown == message or not unknown.startswith("--"):
            return ""
        option = unknown.split()[0].partition("=")[0]
        found = next(self._spellings(option.removeprefix("--").replace("-", "_")), None)
        if found is None and (near := difflib.get_close_matches(option, self._option_string_actions, n=1)):
            found = near[0]
        return "" if found is None else f": write {found} here"

    def _spellings(self, key: str) -> Iterator[str]:
        """Yield how this stage says what another one calls `--key`: a setting, an argument, an option."""
        yield from (f"{name}=VALUE" for name in self._settings() if name.rpartition(".")[2] == key)
        if self.config is not None and (spelling := self.config.spelling(key)) is not None:
            yield spelling if spelling.startswith("--") else f"{spelling}=VALUE"
        for word in (key, *OTHER_WORDS.get(key, ())):
            for action in self._actions:
                if action.dest == word and action.help != argparse.SUPPRESS:
                    yield action.option_strings[0] if action.option_strings else f"{action.metavar}, without an option,"


class Former(argparse.Action):
    """A spelling of earlier versions: not in `--help`, taken, and answered with the present one."""

    def __init__(self, option_strings: Sequence[str], dest: str, now: str, **more: Any):
        super().__init__(option_strings, dest, default=argparse.SUPPRESS, help=argparse.SUPPRESS, **more)
        self.now = now

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        """Take the value, and say how it is written."""
        print(f"{option_string} is written {self.now} now", file=sys.stderr)
        setattr(namespace, self.dest, values)


def add_reading_options(parser: Any, *, defaults: bool = True) -> None:
    """Add how text is read: `--lines`, `--json-field`, `--errors`, `--text-format`.

    Args:
      parser: of the stage, or a group of it.
      defaults: whether an option that is not given has its default and not None.
    """

    def option(name: str, default: str, help: str, **more: Any) -> None:
        parser.add_argument(name, default=default if defaults else None, help=f"{help} (default: {default})", **more)

    option("--lines", "sentences", "what a line of plain text is", choices=("sentences", "paragraphs"))
    field = "field of JSON lines, or column of Parquet and Arrow files, that holds the text; inside others a.b"
    option("--json-field", "text", field, metavar="NAME")
    refuse = "bytes that are not UTF-8: refuse the file, or replace and count them"
    option("--errors", "strict", refuse, choices=("strict", "replace"))
    form = "of the text; auto: as the first line looks"
    option("--text-format", "auto", form, choices=("auto", "plain", "wiki", "json"))
