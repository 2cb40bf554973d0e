"""A small exact calculator: arithmetic formulas over named numbers, evaluated with fractions and shown with them.

Formulas are data (in scenario files and in the catalogue of relations), so what is computed is what is printed. They
know ``+ - * / **``, brackets, ``min max mean ceil sqrt exp ln`` and names; nothing else, so that a formula from a
file can do no harm.
"""

import ast
import math
from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Final

Number = Fraction

_EXPONENT_MAX: Final = 64
_LENGTH_MAX: Final = 500


class FormulaError(ValueError):
    """A formula that cannot be read or evaluated; the message says where."""


def exact(value: object) -> Fraction:
    """A number as a fraction; floats count as the decimal that they print as. Raises :class:`FormulaError`."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str, Fraction)):
        raise FormulaError(f"{value!r} is not a number")
    try:
        return value if isinstance(value, Fraction) else Fraction(str(value))
    except (ValueError, ZeroDivisionError):
        raise FormulaError(f"{value!r} is not a number") from None


class Formula:
    """One formula, read once."""

    def __init__(self, text: str) -> None:
        """Raises :class:`FormulaError`."""
        if len(text) > _LENGTH_MAX:
            raise FormulaError(f"a formula of {len(text)} characters is too long (at most {_LENGTH_MAX})")
        self.text = text
        try:
            self._tree = ast.parse(text.strip(), mode="eval").body
        except (SyntaxError, ValueError, RecursionError) as error:
            raise FormulaError(f"{text!r} cannot be read: {getattr(error, 'msg', error)}") from None
        self.names = frozenset(_names(self._tree, text))
        """Every name that it needs a number for."""

    def value(self, numbers: Mapping[str, Fraction]) -> Fraction:
        """The result. Raises :class:`FormulaError` naming every missing number at once."""
        missing = sorted(self.names - numbers.keys())
        if missing:
            raise FormulaError(f"{self.text!r} needs {', '.join(missing)}")
        return _value(self._tree, numbers, self.text)

    def shown(self, numbers: Mapping[str, Fraction]) -> str:
        """The formula with its numbers in place of the names."""
        return ast.unparse(_Put(numbers).visit(ast.parse(self.text.strip(), mode="eval").body))


def plain(value: Fraction, digits: int = 10) -> str:
    """A fraction as a decimal of at most ``digits`` significant digits, without trailing zeros."""
    if value == 0:
        return "0"
    text = f"{float(value):.{digits}g}"
    if "e" in text:
        text = f"{float(value):.{max(0, digits - 1 - math.floor(math.log10(abs(float(value)))))}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def _mean(*values: Fraction) -> Fraction:
    return sum(values, Fraction(0)) / len(values)


def _ln(value: Fraction) -> Fraction:
    if value <= 0:
        raise FormulaError(f"ln of {plain(value)} does not exist")
    return Fraction(math.log(value))


def _exp(value: Fraction) -> Fraction:
    if value > 700:
        raise FormulaError(f"exp of {plain(value)} is too large")
    return Fraction(math.exp(value))


def _sqrt(value: Fraction) -> Fraction:
    if value < 0:
        raise FormulaError(f"sqrt of {plain(value)} does not exist")
    return Fraction(math.sqrt(value))


_FUNCTIONS: Final[Mapping[str, Callable[..., Fraction]]] = {
    "min": lambda *values: min(values),
    "max": lambda *values: max(values),
    "mean": _mean,
    "ceil": lambda value: Fraction(math.ceil(value)),
    "sqrt": _sqrt,
    "exp": _exp,
    "ln": _ln,
}


def _names(node: ast.AST, text: str) -> list[str]:
    """Names of a tree. Raises :class:`FormulaError` for anything that formulas do not know."""
    match node:
        case ast.Constant(value=value) if isinstance(value, (int, float)) and not isinstance(value, bool):
            return []
        case ast.Name(id=name):
            return [name]
        case ast.UnaryOp(op=ast.USub() | ast.UAdd(), operand=operand):
            return _names(operand, text)
        case ast.BinOp(left=left, op=ast.Add() | ast.Sub() | ast.Mult() | ast.Div() | ast.Pow(), right=right):
            return _names(left, text) + _names(right, text)
        case ast.Call(func=ast.Name(id=name), args=args, keywords=[]) if name in _FUNCTIONS and args:
            return [found for arg in args for found in _names(arg, text)]
    raise FormulaError(
        f"{ast.unparse(node)!r} in {text!r} is not arithmetic; formulas know + - * / ** and {', '.join(_FUNCTIONS)}"
    )


def _value(node: ast.AST, numbers: Mapping[str, Fraction], text: str) -> Fraction:
    match node:
        case ast.Constant(value=value):
            return exact(value)
        case ast.Name(id=name):
            return numbers[name]
        case ast.UnaryOp(op=op, operand=operand):
            inner = _value(operand, numbers, text)
            return -inner if isinstance(op, ast.USub) else inner
        case ast.BinOp(left=left, op=op, right=right):
            return _binary(op, _value(left, numbers, text), _value(right, numbers, text), text)
        case ast.Call(func=ast.Name(id=name), args=args):
            return _FUNCTIONS[name](*(_value(arg, numbers, text) for arg in args))
    raise AssertionError("names were checked when the formula was read")


def _binary(op: ast.operator, left: Fraction, right: Fraction, text: str) -> Fraction:
    match op:
        case ast.Add():
            return left + right
        case ast.Sub():
            return left - right
        case ast.Mult():
            return left * right
        case ast.Div():
            if right == 0:
                raise FormulaError(f"{text!r} divides by zero")
            return left / right
    if right.denominator != 1 or abs(right) > _EXPONENT_MAX or (left == 0 and right < 0):
        raise FormulaError(f"{text!r}: exponents are whole numbers up to {_EXPONENT_MAX}")
    return Fraction(left ** int(right))


class _Put(ast.NodeTransformer):
    """Puts numbers in place of names."""

    def __init__(self, numbers: Mapping[str, Fraction]) -> None:
        self._numbers = numbers

    def visit_Name(self, node: ast.Name) -> ast.AST:
        if node.id not in self._numbers:
            return node
        return ast.Name(id=plain(self._numbers[node.id], 6), ctx=ast.Load())

    def visit_Call(self, node: ast.Call) -> ast.AST:
        return ast.Call(func=node.func, args=[self.visit(arg) for arg in node.args], keywords=[])
