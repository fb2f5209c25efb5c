"""JSON schema validation, as far as schema.json needs it. It describes the first fault in words.

Properties that are not in a schema are ignored, so that reports of later versions can be read.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from typing import Any

TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,), "array": (list,), "string": (str,), "boolean": (bool,), "number": (int, float),
    "integer": (int,), "null": (type(None),),
}  # fmt: skip


def fault(value: Any, schema: dict[str, Any]) -> str | None:
    """Return what is wrong with a value; None if it is valid."""
    return next(_faults(value, schema, schema, "it"), None)


def _faults(value: Any, rule: Any, schema: dict[str, Any], where: str) -> Iterator[str]:
    if rule is False:
        yield f"{where} does not belong there"
        return
    if "$ref" in rule:
        yield from _faults(value, schema["$defs"][rule["$ref"].rpartition("/")[2]], schema, where)
    types = rule.get("type", [])
    types = [types] if isinstance(types, str) else types
    if types and not any(_is(value, name) for name in types):
        yield f"{where} is {_shown(value)}, expected {' or '.join(types)}"
        return
    if "const" in rule or "enum" in rule:
        choices = [rule["const"]] if "const" in rule else rule["enum"]
        if value not in choices:
            yield f"{where} is {_shown(value)}, expected {' or '.join(map(repr, choices))}"
    if "oneOf" in rule:
        found = [next(_faults(value, choice, schema, where), None) for choice in rule["oneOf"]]
        if None not in found:
            yield " or ".join(filter(None, found))
    if isinstance(value, int | float):
        yield from _numbers(value, rule, where)
    elif isinstance(value, dict):
        yield from _members(value, rule, schema, where)
    elif isinstance(value, list):
        yield from _items(value, rule, schema, where)


def _is(value: Any, name: str) -> bool:
    return isinstance(value, TYPES[name]) and isinstance(value, bool) == (name == "boolean")


def _numbers(value: float, rule: dict[str, Any], where: str) -> Iterator[str]:
    low, high = rule.get("minimum", -math.inf), rule.get("maximum", math.inf)
    above = rule.get("exclusiveMinimum", -math.inf)
    if not (low <= value <= high and above < value and abs(value) <= sys.float_info.max):
        yield f"{where} is {_shown(value)}, which is out of range"


def _members(value: dict[str, Any], rule: dict[str, Any], schema: dict[str, Any], where: str) -> Iterator[str]:
    missing = [name for name in rule.get("required", ()) if name not in value]
    if missing:
        yield f"{where} lacks {', '.join(missing)}"
        return
    named, others = rule.get("properties", {}), rule.get("additionalProperties", {})
    for name, member in value.items():
        yield from _faults(member, named.get(name, others or {}), schema, name if where == "it" else f"{where}: {name}")


def _items(value: list[Any], rule: dict[str, Any], schema: dict[str, Any], where: str) -> Iterator[str]:
    if not rule.get("minItems", 0) <= len(value) <= rule.get("maxItems", math.inf):
        yield f"{where} has {len(value)} items"
    firsts = rule.get("prefixItems", [])
    for number, item in enumerate(value):
        each = firsts[number] if number < len(firsts) else rule.get("items", {})
        yield from _faults(item, each, schema, f"{where}[{number}]")


def _shown(value: Any) -> str:
    """Return a value as text, shortened if it is long."""
    text = repr(value) if isinstance(value, str | int | float | None) else f"a {type(value).__name__}"
    return text if len(text) <= 40 else f"{text[:37]}..."
