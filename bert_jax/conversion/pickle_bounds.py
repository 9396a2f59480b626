# SPDX-License-Identifier: Apache-2.0
"""How much a pickle would make, found out before it is loaded.

A few bytes of a pickle can name one object again and again, put it into a tuple, and that twice into another: to hash, copy or
print such a thing takes time that doubles with every step. Here a pickle is gone through opcode by opcode with a stack of
sizes in the place of objects; what an object counts for is itself and all that it holds, as often as it holds it.
"""

import pickle
import pickletools
from typing import BinaryIO

LARGEST_PICKLE = 4 * 2**20  # bytes; BERT-large with its buffers takes 60,000
MOST_OBJECTS = 5_000_000  # that a pickle makes, counted so; the largest that fits above takes 2 million
LARGEST_NUMBER = 2**128

_INTO_THE_FIRST = {"APPEND", "APPENDS", "SETITEM", "SETITEMS", "ADDITEMS", "BUILD"}  # change what lies deepest
_KEEPS = {"PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"}
_FETCHES = {"GET", "BINGET", "LONG_BINGET"}

Sized = list[int]  # the size of one object; a list, as all who hold the object see it grow


def require_bounded(file: BinaryIO) -> None:
    """Go through the pickle that begins where the file stands.

    Raises:
      pickle.UnpicklingError: it would make more than MOST_OBJECTS, or it contradicts itself.
      Exception: as pickletools, where it is none.
    """
    begin = file.tell()
    stack: list[Sized | None] = []  # None: a mark
    memo: dict[int, Sized] = {}
    made = 0
    for opcode, argument, position in pickletools.genops(file):
        after = (position or 0) - begin
        if isinstance(argument, int) and abs(argument) >= LARGEST_NUMBER:
            raise pickle.UnpicklingError(f"a number of {argument.bit_length()} bits after {after} bytes")
        if opcode.name in _KEEPS:
            number = argument if isinstance(argument, int) else len(memo)
            if number > after:  # the unpickler's table is as long as the largest number
                raise pickle.UnpicklingError(f"{opcode.name} {number} after {after} bytes")
            memo[number] = _top(stack)
        elif opcode.name in _FETCHES:
            if argument not in memo:
                raise pickle.UnpicklingError(f"{opcode.name} {argument}, which nothing was kept as")
            stack.append(memo[argument])
        elif opcode.name == "DUP":
            stack.append(_top(stack))
        else:
            made += _step(opcode, stack)
            if made > MOST_OBJECTS:
                raise pickle.UnpicklingError(f"it would make more than {MOST_OBJECTS:,} objects")


def _step(opcode: pickletools.OpcodeInfo, stack: list[Sized | None]) -> int:
    """Do to the stack of sizes what an opcode does; returns how much it makes."""
    taken = _taken(opcode, stack)
    if opcode.name in _INTO_THE_FIRST and taken:
        target, *others = taken
        grown = sum(size[0] for size in others)
        target[0] = min(target[0] + grown, MOST_OBJECTS + 1)
        stack.append(target)
        return grown
    if not opcode.stack_after:
        return 0
    if opcode.name == "MARK":
        stack.append(None)
        return 0
    size = min(1 + sum(size[0] for size in taken), MOST_OBJECTS + 1)
    stack.append([size])
    return size


def _taken(opcode: pickletools.OpcodeInfo, stack: list[Sized | None]) -> list[Sized]:
    """Take off the stack what an opcode takes, the deepest first."""
    before = opcode.stack_before
    taken: list[Sized] = []
    if pickletools.markobject in before:
        while (top := _pop(stack)) is not None:
            taken.append(top)
        fixed = before.index(pickletools.markobject)
    else:
        fixed = len(before)
    if opcode.name == "POP" and not fixed:
        fixed = 1
    for _ in range(fixed):
        top = _pop(stack)
        if top is not None:
            taken.append(top)
    return taken[::-1]


def _pop(stack: list[Sized | None]) -> Sized | None:
    if not stack:
        raise pickle.UnpicklingError("it takes more from its stack than there is")
    return stack.pop()


def _top(stack: list[Sized | None]) -> Sized:
    if not stack or stack[-1] is None:
        raise pickle.UnpicklingError("it keeps what is not there")
    return stack[-1]
