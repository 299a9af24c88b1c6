"""Inside: two processes that call one another's functions, by messages.

Values cross as copies: None, bool, int, float, str, complex, bytes, lists, tuples, dicts, sets,
dates, fractions, decimals and numpy's arrays. Modules cross by their names. All else stays where it
is, and the other process gets a `Remote` that stands for it.

The judge trusts nothing that comes: a message makes values and remotes and calls what was lent,
nothing else. And the program never learns what the judge expects: no value that is compared with a
result crosses.
"""

from __future__ import annotations

import builtins
import operator
import os
import sys
import types

from .messages import TYPE_CHECKING, pack, unpack

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

PROGRAM = "program"  #: the module of which a program's definitions are
_MODULE = 0  # the number of that module among what was lent
LONGEST = 1 << 24  #: bytes of one message

_PLAIN = (type(None), bool, float, str)
_SMALL = 1 << 63  #: greater numbers cross in hexadecimal, which takes time as their length does
_SEQUENCES = {"list": list, "tuple": tuple, "set": set, "frozenset": frozenset}
#: what the process of the program may be asked to do with an object of its own
_OPERATIONS: dict[str, Callable[..., Any]] = {
    "call": lambda function, *args, **named: function(*args, **named),
    "getattr": getattr, "setattr": setattr, "getitem": operator.getitem,
    "setitem": operator.setitem, "delitem": operator.delitem, "len": len, "iter": iter,
    "next": next, "bool": bool, "str": str, "repr": repr, "isinstance": isinstance,
}  # fmt: skip
_BETWEEN = (
    "eq", "lt", "le", "gt", "ge", "add", "sub", "mul", "truediv", "floordiv", "mod", "matmul",
    "and_", "or_", "xor",
)  # fmt: skip
#: classes of the standard library whose objects are values, made again by `_arguments`
_VALUES = {
    ("datetime", "date"), ("datetime", "datetime"), ("datetime", "time"),
    ("datetime", "timedelta"), ("decimal", "Decimal"), ("fractions", "Fraction"),
    ("collections", "deque"), ("collections", "OrderedDict"), ("collections", "Counter"),
    ("collections", "defaultdict"), ("builtins", "range"),
}  # fmt: skip
_BASES: tuple[Any, ...] = (int, float, str, list, tuple, dict, set, frozenset)
_TYPES = ("bool", "int", "float", "str", "complex", "bytes", "bytearray", *_SEQUENCES, "dict")
_OPERATIONS |= {name: getattr(operator, name) for name in _BETWEEN}


class Gone(BaseException):
    """There is nobody to talk to: the other process has ended, or says what is no message."""

    ended = False


class Ended(Gone):
    """The other process has ended."""

    ended = True


class Remote:
    """Stands for an object that the other process keeps."""

    def __init__(self, link: Link, number: int, name: str):
        vars(self).update(_link=link, _number=number, _name=name)

    def __call__(self, *args: Any, **named: Any) -> Any:
        return self._link.ask("call", self, *args, **named)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name.endswith("__"):
            raise AttributeError(name)
        return self._link.ask("getattr", self, name)

    def __setattr__(self, name: str, value: Any) -> None:
        self._link.ask("setattr", self, name, value)

    def __getitem__(self, key: Any) -> Any:
        return self._link.ask("getitem", self, key)

    def __setitem__(self, key: Any, value: Any) -> None:
        self._link.ask("setitem", self, key, value)

    def __delitem__(self, key: Any) -> None:
        self._link.ask("delitem", self, key)

    def __len__(self) -> int:
        return self._link.ask("len", self)

    def __iter__(self) -> Iterator[Any]:
        return self._link.ask("iter", self)

    def __next__(self) -> Any:
        return self._link.ask("next", self)

    def __bool__(self) -> bool:
        return self._link.ask("bool", self) is True

    def __str__(self) -> str:
        return str(self._link.ask("str", self))

    def __repr__(self) -> str:
        return str(self._link.ask("repr", self))

    def __instancecheck__(self, instance: Any) -> bool:
        return isinstance(instance, Remote) and self._link.ask("isinstance", instance, self) is True

    def __hash__(self) -> int:
        return self._number

    def __eq__(self, other: object) -> bool:
        """Whoever is judged never learns what is expected: an object of its own equals no value."""
        if not isinstance(other, Remote):
            return False
        return self._number == other._number or self._link.ask("eq", self, other) is True


def _between(name: str) -> Callable[[Remote, Any], Any]:
    def operation(self: Remote, other: Any) -> Any:
        if not isinstance(other, Remote):  # for the reason of `Remote.__eq__`
            raise TypeError(
                f"{self._name} is an object of the program's own, and no value: a test cannot "
                f"apply {name.strip('_')} to it and a value"
            )
        return self._link.ask(name, self, other)

    return operation


for _name in _BETWEEN[1:]:
    setattr(Remote, f"__{_name.strip('_')}__", _between(_name))


class Link:
    """One end of the connection.

    trusts  whether the other end may do everything of `_OPERATIONS` with what it was lent, and name
            whatever can be imported, as the judge may; else it may call what it was lent
    """

    def __init__(self, read: int, write: int, trusts: bool):
        self._read = os.fdopen(read, "rb")
        self._write = os.fdopen(write, "wb")
        self.asked = 0  #: how often the other end was asked for something
        self._trusts = trusts
        self._lent: dict[int, Any] = {}
        self._remotes: dict[int, Remote] = {}
        self._errors: dict[str, type[Exception]] = {}

    def close(self) -> None:
        self._read.close()
        self._write.close()

    def lend_program(self, module: types.ModuleType) -> None:
        """Let the other end ask for what a module defines."""
        self._lent[_MODULE] = module

    def program(self) -> Remote:
        """Stands for the module that the other end has lent."""
        return Remote(self, _MODULE, PROGRAM)

    def waiting(self) -> bool:
        """Whether the other end, which has ended, had said something."""
        os.set_blocking(self._read.fileno(), False)
        return bool(self._read.read(1))

    def ask(self, operation: str, *args: Any, **named: Any) -> Any:
        """Have the other end do something; meanwhile it may call what it was lent. Raises what
        that raised, and Gone.
        """
        self.asked += 1
        asked = {"do": operation, "args": self.dumps(args), "named": self.dumps(named)}
        self.send(asked)
        while "do" in (said := self.receive()):
            self.send(self._done(said))
        for mine, after in zip(args, self._loads(said.get("args", ["tuple", []])), strict=False):
            _update(mine, after)
        if "raised" in said:
            raised = self._raised(said)
            if isinstance(raised, StopIteration) and operation != "next":
                raise RuntimeError("it raised StopIteration")  # which would end a loop of the judge
            raise raised
        return self._loads(said.get("value"))

    def serve(self) -> None:
        """Do what the other end asks until it is gone."""
        while True:
            try:
                said = self.receive()
            except Gone:
                return
            self.send(self._done(said))

    def send(self, said: dict[str, Any]) -> None:
        data = pack(said)
        try:
            self._write.write(len(data).to_bytes(4, "big") + data)
            self._write.flush()
        except OSError:
            raise Ended from None

    def receive(self) -> dict[str, Any]:
        length = int.from_bytes(self._read.read(4), "big")
        if not length:
            raise Ended
        if length > LONGEST:
            raise Gone("it says more than a message may hold")
        try:
            said = unpack(self._read.read(length))
        except ValueError:
            said = None
        if not isinstance(said, dict):
            raise Gone("it says what is no message")
        return said

    def _done(self, said: dict[str, Any]) -> dict[str, Any]:
        """What came of what the other end asks."""
        args = self._loads(said.get("args"))
        named = self._loads(said.get("named"))
        operation = str(said.get("do"))
        if not self._trusts and (operation != "call" or id(args[0]) not in self._lent):
            raise Gone("it asks for what it was not lent")
        try:
            reply = {"value": self.dumps(_OPERATIONS[operation](*args, **named))}
        except Exception as error:
            reply = {"raised": self._error(error), "with": self.dumps(error.args)}
        if any(map(_changes, args)):
            reply["args"] = self.dumps(args)
        return reply

    # -- values

    def dumps(self, value: Any) -> Any:
        """A value as `pack` takes it: a plain one as it is, another as its kind and content."""
        kind = type(value)
        if kind in _PLAIN or (kind is int and abs(value) < _SMALL):
            return value
        if kind is int:
            return ["int", hex(value)]
        if kind.__name__ in _SEQUENCES and kind in _SEQUENCES.values():
            return [kind.__name__, [self.dumps(one) for one in value]]
        if kind is dict:
            return ["dict", [[self.dumps(key), self.dumps(one)] for key, one in value.items()]]
        if kind is complex:
            return ["complex", value.real, value.imag]
        if kind in (bytes, bytearray):
            return [kind.__name__, value.hex()]
        if (kind.__module__, kind.__name__) in _VALUES:
            return ["value", kind.__module__, kind.__name__, self.dumps(_arguments(value))]
        if kind is Remote and value._link is self:
            return ["yours", value._number]
        if isinstance(value, type) and issubclass(value, Exception):
            return ["error", value.__name__, _builtin_base(value)]
        return self._known(value) or self._simpler(value) or self._lend(value)

    def _known(self, value: Any) -> Any:
        """What both processes can import, by its name."""
        if isinstance(value, types.ModuleType):
            return ["module", value.__name__] if _installed(value.__name__) else None
        if not isinstance(value, (type, types.FunctionType, types.BuiltinFunctionType)):
            return None
        name = (value.__module__, value.__qualname__)
        if name in _VALUES or (name[0] == "builtins" and name[1] in _TYPES):
            return ["known", *name]
        # the program is told of everything, and tells of nothing else: its own process must run it
        if not self._trusts and _installed(str(name[0])) and _found(*name) is value:
            return ["known", *name]
        return None

    def _simpler(self, value: Any) -> Any:
        """An object of a class that the program did not write, as the value that it is."""
        module = type(value).__module__
        if isinstance(value, type) or not _installed(module):
            return None
        if module.partition(".")[0] == "numpy" and hasattr(value, "tolist"):
            if not getattr(value, "shape", ()):
                return self.dumps(value.item())
            return ["array", str(value.dtype), self.dumps(value.tolist())]
        plain = next((plain for plain in _BASES if isinstance(value, plain)), None)
        return None if plain is None else self.dumps(plain(value))

    def _lend(self, value: Any) -> Any:
        if not self._trusts and not callable(value):
            raise TypeError(
                f"a test gives the program a {type(value).__name__}: only values, containers of "
                "them and functions cross to it"
            )
        self._lent[id(value)] = value  # kept, so that its number stays its own
        name = getattr(value, "__qualname__", None) or type(value).__name__
        return ["mine", id(value), str(name)]

    def _loads(self, said: Any) -> Any:
        """The value that `said` describes. Raises Gone for what describes none."""
        try:
            return self._value(said)
        except Gone:
            raise
        except Exception:
            raise Gone("it says what is no value") from None

    def _value(self, said: Any) -> Any:
        if not isinstance(said, list):
            if isinstance(said, dict):
                raise ValueError("a dict crosses as a list of its items")
            return said
        kind, *rest = said
        if kind in _SEQUENCES:
            return _SEQUENCES[kind](self._value(one) for one in rest[0])
        if kind == "dict":
            return {self._value(key): self._value(one) for key, one in rest[0]}
        if kind == "mine":
            return self._remotes.setdefault(rest[0], Remote(self, int(rest[0]), str(rest[1])))
        if kind == "yours":
            return self._lent[rest[0]]
        if kind == "error":
            return self._error_class(*rest)
        if kind == "known":
            return self._imported(*rest)
        if kind == "value":
            return self._imported(*rest[:2])(*self._value(rest[2]))
        return _MAKERS[kind](*(self._value(one) for one in rest))

    def _imported(self, module: str, name: str) -> Any:
        plain = (module, name) in _VALUES or (module == "builtins" and name in _TYPES)
        if not (plain or self._trusts):
            raise ValueError(name)
        return _found(module, name)

    # -- exceptions

    def _error(self, error: Exception) -> Any:
        kind = type(error)
        return ["error", kind.__name__, _builtin_base(kind)]

    def _raised(self, said: dict[str, Any]) -> Exception:
        args = self._loads(said.get("with"))
        kind = self._loads(said["raised"])
        try:
            return kind(*args)
        except Exception:  # a builtin one that wants other arguments
            return Exception(*args)

    def _error_class(self, name: str, base: str) -> type[Exception]:
        known = getattr(builtins, base)
        if not issubclass(known, Exception):
            raise ValueError(base)
        if name == base:
            return known
        return self._errors.setdefault(f"{name} {base}", type(name, (known,), {}))


def _arguments(value: Any) -> tuple[Any, ...]:
    """With what the class of a value makes it again."""
    name = type(value).__name__
    if name == "deque":
        return list(value), value.maxlen
    if name == "defaultdict":
        return value.default_factory, dict(value)
    if name in ("OrderedDict", "Counter"):
        return (dict(value),)
    return value.__reduce__()[1]


def _changes(value: Any) -> bool:
    """Whether a value may be changed in place."""
    return hasattr(type(value), "clear")


def _module(name: str) -> types.ModuleType:
    if not _installed(name):
        raise ValueError(name)
    return _import(name)


def _import(name: str) -> types.ModuleType:
    __import__(name)
    return sys.modules[name]


def _array(dtype: str, content: Any) -> Any:
    return _import("numpy").array(content, dtype=dtype)


_MAKERS: dict[str, Callable[..., Any]] = {
    "int": lambda text: int(text, 16), "complex": complex, "bytes": bytes.fromhex,
    "bytearray": bytearray.fromhex, "array": _array, "module": _module,
}  # fmt: skip


def _installed(module: str) -> bool:
    """Whether a module is of the standard library, or of a package that is installed."""
    top = module.partition(".")[0]
    if top in sys.stdlib_module_names:
        return True
    if top in ("", "__main__", PROGRAM):
        return False
    import importlib.util

    found = importlib.util.find_spec(top)
    return found is not None and "-packages" in str(found.origin)


def _found(module: str, name: str) -> Any:
    try:
        return operator.attrgetter(name)(_import(module))
    except (ImportError, AttributeError):
        return None


def _builtin_base(kind: type) -> str:
    """The name of the nearest class of a class of exceptions that is built in."""
    return next(base.__name__ for base in kind.__mro__ if base.__module__ == "builtins")


def _update(mine: Any, after: Any) -> None:
    """What the program has changed in place is changed here, too."""
    if type(mine) is not type(after) or not _changes(mine) or mine == after:
        return
    mine.clear()
    if hasattr(mine, "extend"):
        mine.extend(after)
    else:
        mine.update(after)
