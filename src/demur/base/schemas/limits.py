"""Bounds on JSON schemas that clients send, checked before anything compiles or forwards one.

A grammar compiler follows references and sub-schemas recursively and multiplies automata: a schema
of 55 KB ends its process, one of 700 bytes fills its memory. Every walk here is a loop over a stack
of its own, and every check is linear in the schema. Pure; see `exceeded_bound`.
"""

from __future__ import annotations

import json
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from demur.base.schemas.pattern_text import BadPattern, read_pattern

Json = Any  # a JSON value


@dataclass(frozen=True, kw_only=True, slots=True)
class SchemaBounds:
    """The most that one request's schemas may hold."""

    characters: int = 65_536  # as JSON
    nodes: int = 8_192  # values, at every depth
    depth: int = 32  # values in values
    references: int = 1_024
    targets: int = 128  # places that references lead to
    chained_depth: int = 256  # of the schema and all targets: how deep references can lead at most
    unfolded: int = 131_072  # values, every reference replaced by what it leads to
    choices: int = 2_048  # entries of enum, all together
    properties: int = 256  # of one object
    pattern_characters: int = 512
    patterns: int = 64
    pattern_unfolded: int = 8_192  # of all patterns together, counted repetitions written out
    # places of all patterns that spell one of several letters or words: see pattern_text
    spellings: int = 12
    met: int = 8  # patterns and formats that allOf may bring together on one string
    length: int = 65_536  # minLength, maxLength
    items: int = 4_096  # minItems, maxItems, minProperties, maxProperties
    together: int = 16_384  # values of all schemas of one request
    # digits of multipleOf as a whole number: an automaton has a state for each remainder
    divisor: int = 10_000


STANDARD = SchemaBounds()
# Of one schema that all functions of a request were put into, each within STANDARD.
TOGETHER = SchemaBounds(
    characters=524_288,
    nodes=20_480,
    depth=40,
    references=4_096,
    targets=256,
    chained_depth=512,
    unfolded=524_288,
)
_LENGTHS = ("minLength", "maxLength")
_COUNTS = ("minItems", "maxItems", "minProperties", "maxProperties", "minContains", "maxContains")
# References that are resolved while matching, or by a base address: what they lead to is not known
# beforehand.
_FLOATING = ("$dynamicRef", "$recursiveRef", "$dynamicAnchor", "$recursiveAnchor", "$anchor", "$id")
# Places where keys are names that the client chose, not words of JSON Schema.
NAMING = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")


@dataclass(frozen=True, kw_only=True, slots=True)
class _Outline:
    """Every value of a schema in the order of the document, flat.

    The values inside value i stand at i + 1 ... i + sizes[i] - 1.
    """

    values: Sequence[Json]
    depths: Sequence[int]
    keys: Sequence[str | None]
    sizes: Sequence[int]  # values inside it, itself counted
    reach: Sequence[int]  # the greatest depth inside it

    @property
    def rows(self) -> Iterator[tuple[Json, str | None]]:
        """Value and key."""
        return zip(self.values, self.keys, strict=True)


def exceeded_bound(schema: Mapping[str, Json], bounds: SchemaBounds = STANDARD) -> str | None:
    """The first bound that a schema exceeds, with both numbers, or why it cannot be followed; None:
    it is within bounds.

    The text repeats nothing of the schema's content.
    """
    # what is far too large is not walked to its end
    for nodes, (_, depth, _) in enumerate(walk(schema), start=1):
        if found := _over("values", nodes, bounds.nodes) or _over("levels", depth, bounds.depth):
            return found
    outline = _outline(schema)
    checks = (_sizes, _numbers, _patterns, _references)
    return next((found for check in checks if (found := check(outline, bounds))), None)


def exceeded_bound_together(
    schemas: Sequence[Mapping[str, Json]], bounds: SchemaBounds = STANDARD
) -> str | None:
    """The first bound that several schemas of one request exceed together. Each is checked by
    `exceeded_bound` as well.
    """
    values = (value for schema in schemas for value in walk(schema))
    for nodes, _ in enumerate(values, start=1):  # what is far too much is not walked to its end
        if nodes > bounds.together:
            return f"all schemas have more than {bounds.together} values together"
    patterns = [pattern for schema in schemas for pattern in pattern_texts(schema)]
    return _over("patterns in all schemas", len(patterns), bounds.patterns)


def walk(value: Json) -> Iterator[tuple[Json, int, str | None]]:
    """Every value inside a JSON value, itself first, in the order of the document: (value, depth,
    key above it).
    """
    stack: list[tuple[Json, int, str | None]] = [(value, 1, None)]
    while stack:
        now, depth, key = stack.pop()
        yield now, depth, key
        if isinstance(now, Mapping):
            stack.extend((item, depth + 1, name) for name, item in reversed(list(now.items())))
        elif isinstance(now, list | tuple):
            stack.extend((item, depth + 1, key) for item in reversed(now))


def pattern_texts(schema: Json) -> Iterator[str]:
    """Every regular expression of a schema: values of `pattern`, names under
    `patternProperties`.
    """
    for value, _, key in walk(schema):
        if key == "pattern" and isinstance(value, str):
            yield value
        elif key == "patternProperties" and isinstance(value, Mapping):
            yield from value


def _outline(schema: Json) -> _Outline:
    """Flatten a schema; sizes and depths are summed up when the walk leaves a value."""
    values, depths, keys = map(list, zip(*walk(schema), strict=True))
    sizes, reach = [1] * len(values), list(depths)
    above: list[int] = []  # values that the walk is inside of
    for at, depth in enumerate(depths):
        while above and depths[above[-1]] >= depth:
            _close(above.pop(), above, sizes, reach)
        above.append(at)
    while above:
        _close(above.pop(), above, sizes, reach)
    return _Outline(values=values, depths=depths, keys=keys, sizes=sizes, reach=reach)


def _close(done: int, above: Sequence[int], sizes: list[int], reach: list[int]) -> None:
    """Add a finished value's size and depth to the value around it."""
    if above:
        sizes[above[-1]] += sizes[done]
        reach[above[-1]] = max(reach[above[-1]], reach[done])


def _over(what: str, has: int, most: int) -> str | None:
    return f"it has {has} {what}, at most {most} are taken" if has > most else None


def _sizes(outline: _Outline, bounds: SchemaBounds) -> str | None:
    """Bounds on properties, enum entries and characters."""
    choices = 0
    for value, key in outline.rows:
        if isinstance(value, Mapping) and key in NAMING:
            if found := _over("properties in one place", len(value), bounds.properties):
                return found
        elif isinstance(value, list | tuple) and key == "enum":
            choices += len(value)
    size = len(json.dumps(outline.values[0], ensure_ascii=False))
    return _over("values in enum", choices, bounds.choices) or _over(
        "characters", size, bounds.characters
    )


def _numbers(outline: _Outline, bounds: SchemaBounds) -> str | None:
    """Bounds on lengths, counts and divisors, each of which multiplies an automaton's states."""
    for value, key in outline.rows:
        if isinstance(value, bool) or not isinstance(value, int | float):
            continue
        most = bounds.length if key in _LENGTHS else bounds.items if key in _COUNTS else None
        if most is not None and value > most:
            return f"{key} is {value}, at most {most} is taken"
        if key == "multipleOf" and _digits(value) > bounds.divisor:
            return f"the digits of multipleOf make a number above {bounds.divisor}"
    return None


def _digits(value: float) -> int:
    """The digits of a number as a whole number, without zeros behind the point: 0.25 is 25, 1e3 is
    1000.
    """
    number = Decimal(str(value)).normalize()
    _, digits, exponent = number.as_tuple()
    zeros: int = min(max(int(exponent), 0), 30)
    return int("".join(map(str, digits)) or "0") * int(10**zeros)


def _patterns(outline: _Outline, bounds: SchemaBounds) -> str | None:
    """Bounds on regular expressions, one by one and together."""
    patterns = list(pattern_texts(outline.values[0]))
    formats = sum(key == "format" and isinstance(value, str) for value, key in outline.rows)
    unfolded, choices = 0, 0
    for pattern in patterns:
        if found := _over("characters in a pattern", len(pattern), bounds.pattern_characters):
            return found
        try:
            read = read_pattern(pattern)
        except BadPattern as e:
            return f"a pattern cannot be used: {e}"
        unfolded, choices = unfolded + read.unfolded, choices + read.choices
    met = len(patterns) + formats if "allOf" in outline.keys else 0
    return (
        _over("patterns and formats beside allOf", met, bounds.met)
        or _over("patterns", len(patterns), bounds.patterns)
        or _over(
            "characters in its patterns, repetitions written out", unfolded, bounds.pattern_unfolded
        )
        or _over(
            "places in its patterns where one of a few letters or words may stand",
            choices,
            bounds.spellings,
        )
    )


def _references(outline: _Outline, bounds: SchemaBounds) -> str | None:
    """Bounds on references: their number, their targets, and the values once they are unfolded."""
    for value, key in outline.rows:
        if (
            isinstance(value, Mapping)
            and key not in NAMING
            and any(name in value for name in _FLOATING)
        ):
            return f"it uses one of {', '.join(_FLOATING)}, which are not followed"
    places = [
        at
        for at, (value, key) in enumerate(outline.rows)
        if key == "$ref" and isinstance(value, str)
    ]
    if not places:
        return None
    if found := _over("references", len(places), bounds.references):
        return found
    # Containers of one document are objects of their own; anything else is one value, wherever it
    # stands.
    index = {
        id(value): at
        for at, value in enumerate(outline.values)
        if isinstance(value, Mapping | list | tuple)
    }
    targets: dict[str, int | None] = {"": 0}  # by reference: where it leads; None: to a bare value
    for at in places:
        reference = outline.values[at]
        if reference not in targets:
            found_there = _target(outline.values[0], reference)
            if found_there is _NOWHERE:
                return "a $ref leads nowhere: only #/... within the same schema is followed"
            targets[reference] = index.get(id(found_there))
    led_to = {at for at in targets.values() if at is not None}
    chained = sum(outline.reach[at] - outline.depths[at] + 1 for at in led_to)
    return (
        _over("places that references lead to", len(targets) - 1, bounds.targets)
        or _over("levels along its references", chained, bounds.chained_depth)
        or _over(
            "values, references unfolded",
            _unfolded(outline, places, targets, bounds.unfolded),
            bounds.unfolded,
        )
    )


_NOWHERE = object()


def _target(schema: Json, reference: str) -> Json:
    """The value that a local JSON pointer (RFC 6901) leads to; _NOWHERE if there is none."""
    if not reference.startswith("#"):
        return _NOWHERE
    now = schema
    for step in filter(None, reference[1:].split("/")):
        name = step.replace("~1", "/").replace("~0", "~")
        if isinstance(now, Mapping) and name in now:
            now = now[name]
        elif (
            isinstance(now, list | tuple)
            and name.isascii()
            and name.isdigit()
            and int(name[:9]) < len(now)
        ):
            now = now[int(name[:9])]
        else:
            return _NOWHERE
    return now


def _unfolded(
    outline: _Outline, places: list[int], targets: Mapping[str, int | None], most: int
) -> int:
    """Count the values once references are replaced; a reference to a place that it stands in
    counts as one value.
    """

    def inside(at: int) -> list[int]:
        """Where the references within a value lead."""
        mine = places[bisect_left(places, at) : bisect_left(places, at + outline.sizes[at])]
        led_to = (targets[outline.values[place]] for place in mine)
        return [there for there in led_to if there is not None]

    total: dict[int, int] = {}
    begun: set[int] = set()
    # Depth first without recursion: a place is pushed again, to be counted once all that it refers
    # to is. A place met again on the way down is a cycle.
    stack = [(0, False)]
    while stack:
        at, all_known = stack.pop()
        if all_known:
            total[at] = min(
                most + 1, outline.sizes[at] + sum(total.get(there, 1) for there in inside(at))
            )
        elif at not in begun:
            begun.add(at)
            stack.append((at, True))
            stack.extend((there, False) for there in set(inside(at)) - begun)
    return total[0]
