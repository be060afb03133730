"""Arithmetic for models, which are bad at it.

An expression is parsed by Python and walked here; nothing is ever compiled or run, and what the walk does not know it
refuses. Invariant: every number on the way, not only the last, is real, finite and below 2**1024, the bound that
floats have anyway. With the bounds on length and depth that makes the time of a call short whatever is asked: a power
is measured before it is computed.
"""

from __future__ import annotations

import ast
import math
import operator
import re
from collections.abc import Callable
from typing import Annotated, Any, NamedTuple

from pydantic import Field

from tokix.drivers.base import Driver, op
from tokix.syscalls import EINVAL

Number = int | float

MAX_LENGTH = 1000
MAX_DEPTH = 50
MAX_BITS = 1024


class Calc(Driver):
    """A calculator."""

    @op(effect="pure", inline=True)
    def eval(
        self,
        expression: Annotated[
            str,
            Field(
                max_length=MAX_LENGTH,
                description="numbers, + - * / // % **, parentheses, pi, e, sqrt sin cos tan log(x, base) exp abs round "
                "min max floor ceil factorial",
            ),
        ],
    ) -> float | int:
        """Work out an arithmetic expression, such as 2 * sqrt(16) + pi."""
        return _walk(_parse(expression), MAX_DEPTH)


def _power(base: Number, exponent: Number) -> Any:
    # base has at least 2**(bits - 1), so the result has at least this many bits; where that is too many, do not try.
    if isinstance(base, int) and isinstance(exponent, int) and (base.bit_length() - 1) * exponent > MAX_BITS:
        raise OverflowError
    return base**exponent


def _factorial(n: Number) -> int:
    if not isinstance(n, int) or not 0 <= n <= 170:  # 171! has more than MAX_BITS
        raise ValueError("needs a whole number from 0 to 170")
    return math.factorial(n)


def _round(number: Number, digits: Number | None = None) -> Number:
    if digits is None:
        return round(number)
    if not isinstance(digits, int) or abs(digits) > 400:  # Python would compute 10**digits for a whole number
        raise ValueError("the number of digits has to be a whole number from -400 to 400")
    return round(number, digits)


class Function(NamedTuple):
    """A function and how many arguments it takes."""

    call: Callable[..., Any]
    least: int = 1
    most: int = 1


FUNCTIONS = {
    "sqrt": Function(math.sqrt),
    "sin": Function(math.sin),
    "cos": Function(math.cos),
    "tan": Function(math.tan),
    "log": Function(math.log, most=2),
    "exp": Function(math.exp),
    "abs": Function(abs),
    "round": Function(_round, most=2),
    "min": Function(min, least=2, most=MAX_LENGTH),
    "max": Function(max, least=2, most=MAX_LENGTH),
    "floor": Function(math.floor),
    "ceil": Function(math.ceil),
    "factorial": Function(_factorial),
}
CONSTANTS = {"pi": math.pi, "e": math.e}
BINARY: dict[type[ast.operator], tuple[str, Callable[[Any, Any], Any]]] = {
    ast.Add: ("+", operator.add),
    ast.Sub: ("-", operator.sub),
    ast.Mult: ("*", operator.mul),
    ast.Div: ("/", operator.truediv),
    ast.FloorDiv: ("//", operator.floordiv),
    ast.Mod: ("%", operator.mod),
    ast.Pow: ("**", _power),
}
UNARY: dict[type[ast.unaryop], Callable[[Any], Any]] = {ast.UAdd: operator.pos, ast.USub: operator.neg}

_STRANGE = re.compile(r"[^0-9A-Za-z_+\-*/%^(),.\s]", re.ASCII)
#: A number with a keyword at its end, such as `1or 2`, for which Python's tokenizer warns.
_GLUED = re.compile(r"\b\d[\w.]*?(?:and|else|for|if|in|is|or|not)", re.ASCII)


def _parse(expression: str) -> ast.expr:
    if strange := _STRANGE.search(expression):
        raise EINVAL(f"{strange[0]!r} has no meaning in arithmetic")
    if glued := _GLUED.search(expression):
        raise EINVAL(f"{glued[0]!r} is not a number")
    try:
        return ast.parse(expression.strip(), mode="eval").body
    except SyntaxError as error:
        raise EINVAL(f"{error.msg} at column {error.offset}") from None
    except (RecursionError, MemoryError):  # how the parser says that its stack is full
        raise EINVAL("nested too deeply") from None


def _walk(node: ast.expr, depth: int) -> Number:
    if depth == 0:
        raise EINVAL(f"nested more than {MAX_DEPTH} deep")
    match node:
        case ast.Constant(value=int() | float() as value) if not isinstance(value, bool):
            return _bounded("a number", value)
        case ast.Name(id=name) if name in CONSTANTS:
            return CONSTANTS[name]
        case ast.UnaryOp(op=sign) if type(sign) in UNARY:
            return _apply("sign", UNARY[type(sign)], _walk(node.operand, depth - 1))
        case ast.BinOp():
            return _chain(node, depth)
        case ast.Call(func=ast.Name(id=name), args=args, keywords=[]) if name in FUNCTIONS:
            function = FUNCTIONS[name]
            if not function.least <= len(args) <= function.most:
                raise EINVAL(f"{name} does not take {len(args)} argument{'s'[len(args) == 1 :]}")
            return _apply(name, function.call, *[_walk(arg, depth - 1) for arg in args])
    raise EINVAL(_complaint(node))


def _chain(node: ast.expr, depth: int) -> Number:
    """Work out a + b + c + …, which the parser nests to the left, without a level of depth for every operator."""
    rest: list[tuple[ast.operator, ast.expr]] = []
    while isinstance(node, ast.BinOp):
        rest.append((node.op, node.right))
        node = node.left
    value = _walk(node, depth - 1)
    for symbol, right in reversed(rest):
        if type(symbol) not in BINARY:
            raise EINVAL("no such operator" + ("; a power is written **" if isinstance(symbol, ast.BitXor) else ""))
        value = _apply(*BINARY[type(symbol)], value, _walk(right, depth - 1))
    return value


def _apply(name: str, function: Callable[..., Any], *values: Number) -> Number:
    try:
        return _bounded(name, function(*values))
    except ZeroDivisionError:
        raise EINVAL(f"{name}: division by zero") from None
    except OverflowError:
        raise EINVAL(f"{name}: too large; the bound is 2**{MAX_BITS}") from None
    except ValueError as error:
        raise EINVAL(f"{name}: {error}") from None


def _bounded(name: str, value: int | float | complex) -> Number:
    if isinstance(value, complex):
        raise EINVAL(f"{name}: the result is not a real number")
    if isinstance(value, float) and math.isnan(value):
        raise EINVAL(f"{name}: the result is not a number")
    # An int is measured by its bits: the largest of them that fit are too large to be a float.
    if value.bit_length() > MAX_BITS if isinstance(value, int) else math.isinf(value):
        raise EINVAL(f"{name}: too large; the bound is 2**{MAX_BITS}")
    return value


def _complaint(node: ast.expr) -> str:
    match node:
        case ast.Name(id=name):
            return f"no constant {name}; there is {', '.join(CONSTANTS)}"
        case ast.Call(func=ast.Name(id=name), keywords=[]):
            return f"no function {name}; there is {', '.join(FUNCTIONS)}"
        case ast.Constant(value=value):
            return f"{value!r} is not a real number"
    return f"{type(node).__name__} at column {node.col_offset + 1} is not arithmetic"
