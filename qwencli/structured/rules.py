"""`--check "sum(items.price) == total"`: rules across the fields of an answer, evaluated without `eval`.

A name is a field; `items.price` of a list is the list of each one's. Numbers are compared as money is: what
binary fractions cannot hold makes no difference.
"""

import ast
import math
import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

_OPERATORS: dict[type[ast.AST], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Mod: operator.mod,
    ast.Lt: lambda a, b: a < b and not _is_same(a, b),
    ast.LtE: lambda a, b: a < b or _is_same(a, b),
    ast.Gt: lambda a, b: a > b and not _is_same(a, b),
    ast.GtE: lambda a, b: a > b or _is_same(a, b),
    ast.Eq: lambda a, b: _is_same(a, b),
    ast.NotEq: lambda a, b: not _is_same(a, b),
    ast.In: lambda a, b: a in b,
    ast.NotIn: lambda a, b: a not in b,
}
_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "sum": lambda values: math.fsum(values),
    "len": len,
    "min": min,
    "max": max,
    "abs": abs,
    "round": round,
    "all": all,
    "any": any,
}


@dataclass(frozen=True, slots=True)
class Rule:
    text: str
    tree: ast.expr

    @classmethod
    def parse(cls, text: str) -> "Rule":
        """Raises ValueError for what is no rule of this kind."""
        try:
            tree = ast.parse(text.strip(), mode="eval").body
        except (SyntaxError, ValueError, RecursionError) as error:
            reason = getattr(error, "msg", None) or error
            raise ValueError(
                f"{text!r} is no rule ({reason}). Write it like: sum(items.price) == total"
            ) from None
        for node in ast.walk(tree):
            _check(node, text)
        return cls(text, tree)

    @property
    def names(self) -> set[str]:
        """The fields it speaks of."""
        called = {id(node.func) for node in ast.walk(self.tree) if isinstance(node, ast.Call)}
        return {
            node.id for node in ast.walk(self.tree) if isinstance(node, ast.Name) and id(node) not in called
        }

    def check(self, data: Any) -> None:
        """Raises ValueError where the rule does not hold, with the values of both sides."""
        try:
            holds = _value(self.tree, data)
        except (TypeError, KeyError, ValueError, ZeroDivisionError, OverflowError) as error:
            raise ValueError(f"{self.text}: cannot be computed ({error})") from None
        if not holds:
            raise ValueError(f"{self.text} does not hold{_sides(self.tree, data)}")


_NODES = (ast.Compare, ast.BoolOp, ast.BinOp, ast.UnaryOp, ast.Call, ast.Name, ast.Attribute, ast.Constant)
_PARTS: tuple[type[ast.AST], ...] = (ast.Load, ast.And, ast.Or, ast.Not, ast.USub, *_OPERATORS)


def _check(node: ast.AST, text: str) -> None:
    is_known = isinstance(node, (*_NODES, *_PARTS))
    if isinstance(node, ast.Call):
        is_known = isinstance(node.func, ast.Name) and node.func.id in _FUNCTIONS and not node.keywords
    if isinstance(node, ast.Constant):
        is_known = node.value is None or isinstance(node.value, bool | int | float | str)
    if not is_known:
        raise ValueError(
            f"{text!r}: there are fields, numbers, texts, comparisons, + - * / %, and, or, not, and the "
            f"functions {', '.join(_FUNCTIONS)}."
        )


def _value(node: ast.expr, data: Any) -> Any:
    match node:
        case ast.Constant():
            return node.value
        case ast.Name():
            return _field(data, node.id)
        case ast.Attribute():
            return _field(_value(node.value, data), node.attr)
        case ast.UnaryOp():
            value = _value(node.operand, data)
            return not value if isinstance(node.op, ast.Not) else -value
        case ast.BinOp():
            return _OPERATORS[type(node.op)](_value(node.left, data), _value(node.right, data))
        case ast.BoolOp():
            combine = all if isinstance(node.op, ast.And) else any
            return combine(_value(each, data) for each in node.values)
        case ast.Call(func=ast.Name(id=name)):
            return _FUNCTIONS[name](*(_value(each, data) for each in node.args))
        case ast.Compare():
            values = [_value(each, data) for each in (node.left, *node.comparators)]
            pairs = zip(node.ops, values[:-1], values[1:], strict=True)
            return all(_OPERATORS[type(op)](left, right) for op, left, right in pairs)
    raise AssertionError(ast.dump(node))


def _field(data: Any, name: str) -> Any:
    if isinstance(data, list):
        return [_field(item, name) for item in data]
    if not isinstance(data, dict) or name not in data:
        raise KeyError(f"there is no {name}")
    return data[name]


def _is_same(left: Any, right: Any) -> bool:
    if isinstance(left, int | float) and isinstance(right, int | float):
        return math.isclose(left, right, rel_tol=1e-9, abs_tol=1e-9)
    return bool(left == right)


def _sides(node: ast.expr, data: Any) -> str:
    if not isinstance(node, ast.Compare):
        return ""
    values = [_value(each, data) for each in (node.left, *node.comparators)]
    return f" ({' and '.join(f'{round(v, 6) if isinstance(v, float) else v!r}' for v in values)})"
