"""A pickle interpreter that makes dicts, lists, tuples, numbers, texts and what it is told to.

``pickletools`` knows the operations and reads their arguments; the forty below are carried out, any
other is refused. A global is looked up in a table, never imported; any other is refused by name. So
no code of a file is run, whatever it holds. (``pickle.Unpickler`` with a ``find_class`` of our own
would be shorter, but its C code hashes nested tuples by recursion without a limit and makes room
for 2**32 memo entries when told to: a file of a few bytes can end the process.)
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable, Mapping
from typing import Any

from fastconv.checkpoint.pytorch_objects import Refused, set_entry

# A tensor takes about 30 operations, so that this is for 65,000. It bounds time and memory: an
# operation of one byte can make an object of 64.
MAX_OPERATIONS = 2_000_000


def load(file: Any, names: Mapping[str, Any], persistent: Callable[[Any], Any]) -> Any:
    """Carry out the pickle that begins where ``file`` stands, and leave it at the pickle's end.

    Parameters
    ----------
    file
        Has ``read``, ``readline`` and ``tell``.
    names
        "module name" of each global that may be named -> what stands for it.
    persistent
        Called with what the pickle gives as the id of an object that is not in it.

    Raises
    ------
    ValueError
        If the pickle is damaged or wants anything else.
    """
    machine = _Machine(names, persistent)
    for _ in range(MAX_OPERATIONS):
        position = file.tell()
        name, argument = _next(file)
        try:
            if name == "STOP":
                return machine.stack[-1]
            if name in _VALUES:
                machine.push(argument)
            else:
                _ACTIONS[name](machine, argument)
        except (IndexError, KeyError):  # an empty stack, a memo entry that is not there
            raise ValueError(
                f"damaged pickle: {name} at byte {position} lacks what it works on"
            ) from None
    raise ValueError(f"a pickle of more than {MAX_OPERATIONS} operations")


def _next(file: Any) -> tuple[str, Any]:
    """(name, argument) of the operation where ``file`` stands."""
    code = file.read(1)
    operation = _OPERATIONS.get(code)
    if operation is None:
        raise ValueError("damaged pickle: it is cut short" if not code else f"no pickle: {code!r}")
    if operation.name == "GLOBAL":  # pickletools would decode escapes, which pickle does not
        module, name = file.readline(), file.readline()
        if not name.endswith(b"\n"):
            raise ValueError("damaged pickle: it is cut short within a global's name")
        return "GLOBAL", f"{module[:-1].decode('utf-8')} {name[:-1].decode('utf-8')}"
    if operation.name not in _KNOWN:
        raise Refused(f"pickle operation {operation.name} is none that a state dict needs")
    return operation.name, None if operation.arg is None else operation.arg.reader(file)


class _Machine:
    """The stack since the last mark and those below it; the memo. Too short a stack: IndexError."""

    def __init__(self, names: Mapping[str, Any], persistent: Callable[[Any], Any]) -> None:
        self.names, self.persistent = names, persistent
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []
        self.memo: dict[int, Any] = {}

    def mark(self, argument: Any) -> None:
        self.below.append(self.stack)
        self.stack = []

    def pop_to_mark(self) -> list[Any]:
        items, self.stack = self.stack, self.below.pop()
        return items

    def pop(self, count: int) -> list[Any]:
        if len(self.stack) < count:
            raise IndexError
        items = self.stack[-count:]
        del self.stack[-count:]
        return items

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def memoize(self, index: int | None) -> None:
        self.memo[len(self.memo) if index is None else index] = self.stack[-1]

    def push_global(self, name: str) -> None:
        if name not in self.names:
            shown = name[:200].replace(" ", ".")
            raise Refused(
                f"the file names the global {shown!r}, which no state dict needs; nothing of a "
                f"file is run. If the file can be trusted, save its weights alone: "
                f"torch.save(model.state_dict(), path)"
            )
        self.push(self.names[name])

    def push_stack_global(self, argument: Any) -> None:
        module, name = self.pop(2)
        if type(name) is not str or type(module) is not str:
            raise ValueError("a global whose name is no text")
        self.push_global(f"{module} {name}")

    def reduce(self, argument: Any) -> None:
        function, arguments = self.pop(2)
        if type(arguments) is not tuple or not callable(function):
            raise ValueError("a call of what is no function")
        try:
            self.push(function(*arguments))
        except TypeError:
            raise ValueError(f"a call with {len(arguments)} arguments, which are not its") from None

    def build(self, argument: Any) -> None:
        """The state of an object: only a state dict's ``_metadata`` is known, and not needed."""
        self.pop(1)
        if type(self.stack[-1]) is not dict:
            raise ValueError("a state is given to what is no OrderedDict")

    def extend(self, items: list[Any]) -> None:
        if type(self.stack[-1]) is not list:
            raise ValueError("an element is added to what is no list")
        self.stack[-1].extend(items)

    def set_items(self, items: list[Any]) -> None:
        if len(items) % 2:
            raise IndexError
        for key, value in zip(items[::2], items[1::2]):
            set_entry(self.stack[-1], key, value)


_OPERATIONS = {operation.code.encode("latin-1"): operation for operation in pickletools.opcodes}
# Those that push their own argument.
_VALUES = {
    "NONE", "BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT",
    "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "SHORT_BINSTRING", "BINSTRING",
    "BINBYTES", "SHORT_BINBYTES",
}  # fmt: skip
_ACTIONS: dict[str, Callable[[_Machine, Any], None]] = {
    "PROTO": lambda machine, _: None,
    "FRAME": lambda machine, _: None,
    "MARK": _Machine.mark,
    "NEWTRUE": lambda machine, _: machine.push(True),
    "NEWFALSE": lambda machine, _: machine.push(False),
    "EMPTY_DICT": lambda machine, _: machine.push({}),
    "EMPTY_LIST": lambda machine, _: machine.push([]),
    "EMPTY_TUPLE": lambda machine, _: machine.push(()),
    "TUPLE": lambda machine, _: machine.push(tuple(machine.pop_to_mark())),
    "TUPLE1": lambda machine, _: machine.push(tuple(machine.pop(1))),
    "TUPLE2": lambda machine, _: machine.push(tuple(machine.pop(2))),
    "TUPLE3": lambda machine, _: machine.push(tuple(machine.pop(3))),
    "BINPUT": _Machine.memoize,
    "LONG_BINPUT": _Machine.memoize,
    "MEMOIZE": _Machine.memoize,
    "BINGET": lambda machine, index: machine.push(machine.memo[index]),
    "LONG_BINGET": lambda machine, index: machine.push(machine.memo[index]),
    "GLOBAL": _Machine.push_global,
    "STACK_GLOBAL": _Machine.push_stack_global,
    "REDUCE": _Machine.reduce,
    "BUILD": _Machine.build,
    "APPEND": lambda machine, _: machine.extend(machine.pop(1)),
    "APPENDS": lambda machine, _: machine.extend(machine.pop_to_mark()),
    "SETITEM": lambda machine, _: machine.set_items(machine.pop(2)),
    "SETITEMS": lambda machine, _: machine.set_items(machine.pop_to_mark()),
    "BINPERSID": lambda machine, _: machine.push(machine.persistent(machine.pop(1)[0])),
}
_KNOWN = {"STOP", "GLOBAL", *_VALUES, *_ACTIONS}
