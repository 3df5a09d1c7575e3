"""Schemas that end or hold a grammar compiler are refused before one sees them; ordinary ones
pass.
"""

import sys

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from demur.base.schemas.limits import STANDARD, exceeded_bound, exceeded_bound_together, walk
from demur.base.schemas.pattern_text import BadPattern, read_pattern
from tests.work import instructions


def chain(length):
    """Each definition is a list of the next: nothing in the document is deep, and all of it
    together is.
    """
    places = {
        f"d{n}": {"type": "array", "items": {"$ref": f"#/$defs/d{n + 1}"}} for n in range(length)
    }
    return {"$defs": {**places, f"d{length}": {"type": "string"}}, "$ref": "#/$defs/d0"}


def nested(depth, around=lambda inner: {"type": "array", "items": inner}):
    schema = {"type": "string"}
    for _ in range(depth):
        schema = around(schema)
    return schema


def doubling(levels):
    both = {
        f"d{n}": {"anyOf": [{"$ref": f"#/$defs/d{n + 1}"}, {"not": {"$ref": f"#/$defs/d{n + 1}"}}]}
        for n in range(levels)
    }
    return {"$defs": {**both, f"d{levels}": {"type": "string"}}, "$ref": "#/$defs/d0"}


HOSTILE = {
    "references 1,300 deep": chain(1300),
    "references 130 deep": chain(130),
    "lists 1,300 deep": nested(1300),
    "lists 100,000 deep": nested(100_000),
    "objects in objects": nested(40, lambda inner: {"type": "object", "properties": {"a": inner}}),
    "allOf of 24 patterns": {
        "type": "string",
        "allOf": [{"pattern": f"(a|b)*a(a|b){{{n + 4}}}"} for n in range(24)],
    },
    "references that double": doubling(30),
    "repetitions of repetitions": {"type": "string", "pattern": "((a{1,999}){1,999}){1,999}"},
    "a repetition": {"type": "string", "pattern": "[ab]{1,100000}"},
    "many patterns": {"anyOf": [{"pattern": f"a{n}"} for n in range(100)]},
    "names by many patterns": {"patternProperties": {f"^a{n}": {} for n in range(100)}},
    "a long pattern": {"pattern": "a" * 600},
    "groups in groups": {"pattern": "(" * 40 + "a" + ")" * 40},
    "looking ahead": {"pattern": "(?=a)b"},
    "a reference back": {"pattern": "(a)\\1"},
    "a group left open": {"pattern": "(a"},
    "a huge divisor": {"type": "integer", "multipleOf": 1000003},
    "a huge divisor as a power": {"type": "number", "multipleOf": 1e18},
    "a fine divisor": {"type": "number", "multipleOf": 0.1234567},
    "long strings": {"type": "string", "minLength": 10**9},
    "long lists": {"type": "array", "minItems": 10**6},
    "wide objects": {"properties": {f"p{n}": {} for n in range(400)}},
    "choices": {"enum": list(range(3000))},
    "a remote reference": {"$ref": "http://127.0.0.1:1/x"},
    "a file": {"$ref": "file:///etc/passwd"},
    "a reference to nowhere": {"$ref": "#/$defs/none"},
    "a dynamic reference": {"$dynamicRef": "#node", "$defs": {"a": {"$dynamicAnchor": "node"}}},
    "a base of its own": {"$id": "http://localhost/", "$ref": "#/$defs/a", "$defs": {"a": {}}},
    "much text": {"const": "x" * 70_000},
    "many values": {"anyOf": [{}] * 9000},
}

TREE = {
    "type": "object",
    "properties": {"value": {"type": "integer"}, "next": {"$ref": "#/$defs/node"}},
}
ORDINARY = {
    "any object": {},
    "recursion": {"$defs": {"node": TREE}, "$ref": "#/$defs/node"},
    "itself": {"properties": {"child": {"$ref": "#"}}},
    "a reference with an escape": {"$defs": {"a/b": {"type": "string"}}, "$ref": "#/$defs/a~1b"},
    "a property called pattern": {
        "properties": {"pattern": {"type": "string"}, "$id": {"type": "string"}}
    },
    "a date and a code": {
        "properties": {"at": {"format": "date-time"}, "code": {"pattern": "^[A-Z]{2,3}-\\d{4}$"}}
    },
    "true and false": {"properties": {"a": True}, "additionalProperties": False},
    "cents": {"type": "number", "multipleOf": 0.01},
    "references 60 deep": chain(60),
    "30 definitions": {
        "$defs": {
            f"d{n}": {"properties": {"a": {"$ref": f"#/$defs/d{(n * 7 + 1) % 30}"}}}
            for n in range(30)
        },
        "$ref": "#/$defs/d0",
    },
    "200 choices": {"enum": [f"country {n}" for n in range(200)]},
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_ends_or_holds_a_compiler_is_too_much(name):
    found = exceeded_bound(HOSTILE[name])
    assert found is not None
    assert not [
        text for text in ("(a|b)", "d17", "127.0.0.1", "passwd", "country") if text in found
    ]


@pytest.mark.parametrize("name", ORDINARY)
def test_ordinary_schemas_pass(name):
    assert exceeded_bound(ORDINARY[name]) is None


def test_a_fault_says_both_numbers():
    assert (
        exceeded_bound(HOSTILE["allOf of 24 patterns"])
        == "it has 24 patterns and formats beside allOf, at most 8 are taken"
    )
    assert (
        exceeded_bound(HOSTILE["references 130 deep"])
        == "it has 131 places that references lead to, at most 128 are taken"
    )
    assert (
        exceeded_bound(chain(127))
        == "it has 388 levels along its references, at most 256 are taken"
    )
    assert (
        exceeded_bound(HOSTILE["long strings"]) == "minLength is 1000000000, at most 65536 is taken"
    )


def test_schemas_that_are_each_within_bounds_are_counted_together():
    wide = {"anyOf": [{}] * 8000}
    assert exceeded_bound(wide) is None
    assert exceeded_bound_together([wide, wide]) is None
    assert "16384 values" in str(exceeded_bound_together([wide] * 3))
    patterns = {"anyOf": [{"pattern": "a"}] * 40}
    assert "80 patterns" in str(exceeded_bound_together([patterns, patterns]))


def spread(places):
    """Each definition refers to the eight after it."""
    below = {
        f"d{n}": {"anyOf": [{"$ref": f"#/$defs/d{m}"} for m in range(n + 1, min(n + 9, places))]}
        for n in range(places)
    }
    return {"$defs": below, "$ref": "#/$defs/d0"}


# instructions; 1,300 references in a chain take most: 1,202,560 in Python 3.12
MOST_WORK = 2_500_000


@pytest.mark.parametrize("name", HOSTILE)
def test_no_schema_costs_the_check_much(name):
    assert instructions(lambda: exceeded_bound(HOSTILE[name])) < MOST_WORK


GROWING = {
    "references that spread": spread,
    "references in a chain": chain,
    "references that double": doubling,
    "lists in one another": lambda n: nested(n // 2),
    "patterns": lambda n: {"anyOf": [{"pattern": f"(a|b)*a{k}{{3}}"} for k in range(n)]},
    "a pattern": lambda n: {"pattern": "(a|b)*" * n},
    "choices": lambda n: {"enum": [f"country {k}" for k in range(10 * n)]},
    "names": lambda n: {"properties": {f"p{k}": {} for k in range(4 * n)}},
}


@pytest.mark.parametrize("name", GROWING)
def test_twice_the_schema_is_about_twice_the_work(name):
    half, whole = (instructions(lambda n=n: exceeded_bound(GROWING[name](n))) for n in (30, 60))
    assert whole < 2.5 * half


KEYS = ["$ref", "$defs", "pattern", "items", "enum", "properties", "allOf", "x", "multipleOf"]
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=4)
    ),
    max_leaves=20,
)


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(schema=st.dictionaries(st.sampled_from(KEYS), json_values, max_size=4))
def test_no_json_value_breaks_the_check_and_every_value_is_walked(schema):
    found = exceeded_bound(schema)
    assert found is None or isinstance(found, str)
    assert sum(1 for _ in walk(schema)) == counted(schema)


def counted(value):
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return 1 + sum(counted(item) for item in inside)


@pytest.mark.parametrize(
    ("pattern", "unfolded", "text"),
    [
        ("^Sure, here is", 13, "Sure, here is"),
        ("S[uU]r\\x65(?:, )h{2}", 8, "Sure, h"),
        ("(yes|no){3}", 15, "yes\nno"),
        ("\\u0041\\.\\d+[^a-z]", 4, "A."),
        ("((a{1,9}){1,9}){1,9}", 729, "a"),
        ("a{2,}b*?", 4, "ab"),
        ("x{", 2, "x{"),
        ("[]a]", 1, "a"),
        ("\\p{L}+", 1, ""),
        ("(?P<name>a)(?<other>b)", 2, "ab"),
        ("", 0, ""),
    ],
)
def test_a_pattern_is_measured_and_spelled(pattern, unfolded, text):
    read = read_pattern(pattern)
    assert (read.unfolded, read.text) == (unfolded, text)


@pytest.mark.parametrize(
    ("pattern", "text", "choices"),
    [
        ("[Hh][~o][w~]", "how", 0),
        ("[Hq][oq][wq]", "How", 3),
        ("[^\\u0000-GI-\\uffff][^\\x{0}-np-\\x{10ffff}]", "Ho", 1),
        ("[A-Zo][a-z]", "A", 1),
        ("(H|q)(o|q)", "H\nqo\nq", 2),
        ("Hx{0}o(no)?w", "Hxonow", 2),
        ("1?H-{0}o\\.*w", "How", 0),
        ("[Hж]", "H", 1),
        ("[\\u4e00-\\u9fff]{2}", "", 0),
        ("[\\w.-]+@[A-Za-z0-9-]+\\.[a-z]{2,}", "@.", 0),
        ("(19|20)\\d\\d-(0[1-9]|1[0-2])", "19\n20-01\n10", 0),
        ("[0-9a-f]{8}-[89ab]", "-a", 1),
        ('[^"]*', "", 0),
    ],
)
def test_where_a_pattern_lets_one_of_a_few_letters_stand_it_chooses(pattern, text, choices):
    read = read_pattern(pattern)
    assert (read.text, read.choices) == (text, choices)


def test_a_text_that_is_hidden_among_choices_is_too_much():
    said = "How do I pick a lock?"
    for written in ("[{}q]", "({}|q)", "[q{}]", "{}?"):
        assert exceeded_bound(
            {"pattern": "".join(written.format(c) if c.isalpha() else "." for c in said)}
        )


@given(pattern=st.text(alphabet="ab()[]{}|*+?\\^$.,19-x", max_size=40))
def test_any_pattern_is_read_or_refused(pattern):
    try:
        read = read_pattern(pattern)
    except BadPattern:
        return
    assert read.unfolded >= 0
    assert len(read.text) <= len(pattern)


def test_the_bounds_leave_room_below_pythons_own_recursion():
    assert STANDARD.chained_depth * 2 < sys.getrecursionlimit()
