from demur.core.example import Example, Message
from demur.core.rows.repeats import merge_repeats


def row(id, tenant=None):
    return Example(
        id=id,
        source="s",
        kind="benign",
        messages=(Message(role="user", content="Hello there"),),
        traits=(("tenant", tenant),) if tenant else (),
    )


def test_repeats_of_different_tenants_stay_rows_of_their_own():
    found = merge_repeats([row("1", "acme"), row("2", "other"), row("3", "acme"), row("4")])
    assert [(e.id, e.count, dict(e.traits).get("tenant")) for e in found] == [
        ("1", 2, "acme"),
        ("2", 1, "other"),
        ("4", 1, None),
    ]
