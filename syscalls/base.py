"""A system call is a frozen message that is awaited. Here is the only `yield` of the project.

    reply = await GetPid()

The class carries the type of its reply. `canonical` is the text of a call that the journal stores and compares: the
name, then the arguments that differ from their defaults, so that a new optional field breaks no old journal.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, ClassVar, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, TypeAdapter

R = TypeVar("R")

#: JSON keeps NaN and infinities, so that a value survives the journal as it was.
_JSON = ConfigDict(ser_json_inf_nan="constants")


class Value(BaseModel):
    """A frozen record that crosses the border between programs and the kernel."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")


class Syscall(Value, Generic[R]):
    """A request to the kernel. `await` it in a program: it gives a value of `reply`, or raises a `SyscallError`."""

    #: Codes the reply.
    reply: ClassVar[TypeAdapter[Any]]
    #: True where the call changes nothing: a foreign process may repeat it, so its reply is not journalled for one.
    observes: ClassVar[bool] = False
    #: The tag of the class in the union.
    name: ClassVar[str]

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        for base in cls.__mro__:
            metadata: dict[str, Any] = getattr(base, "__pydantic_generic_metadata__", {})
            if args := metadata.get("args"):
                cls.reply = codec(args[0])
        if "call" in cls.model_fields:
            cls.name = cls.model_fields["call"].default

    def __await__(self) -> Generator[Syscall[R], R, R]:
        return (yield self)

    def canonical(self) -> str:
        """Give the text that the journal stores, such as `send{"to":2,"body":"hi"}`.

        Raises ValueError if an argument is not JSON.
        """
        return self.name + readable(self.__pydantic_serializer__.to_json(self, exclude_defaults=True).decode())

    def __str__(self) -> str:
        return self.canonical()


def codec(kind: Any) -> TypeAdapter[Any]:
    """Make the JSON codec of a type; models bring their own configuration."""
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return TypeAdapter(kind)
    return TypeAdapter(kind, config=_JSON)


#: Codes any JSON value.
ANY = codec(Any)


def to_json(value: object) -> str:
    """Write a JSON value; raises ValueError for what is none."""
    try:
        return readable(ANY.dump_json(value).decode())
    except RecursionError as error:
        raise ValueError(str(error)) from None


def readable(text: str) -> str:
    """Give back JSON that can be read, also inside of a larger value; raises ValueError for any other.

    What can be written and not read is deep, or has numbers of thousands of digits; only what could be is looked at.
    """
    if len(text) > 4300 or text.count("[") + text.count("{") > 150:
        ANY.validate_json("[" * 32 + text + "]" * 32)
    return text


def from_json(text: str) -> Any:
    """Read what `to_json` wrote."""
    return ANY.validate_json(text)
