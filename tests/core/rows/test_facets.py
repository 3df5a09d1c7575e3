from dataclasses import replace

import pytest

from demur.core.conversation.written_language import written_language
from demur.core.example import Example, Message
from demur.core.rows.facets import FACETS, NONE, TOLD, says_something, told_traits, value_of
from demur.core.rows.rewrites import rewritten_rows


def row(*turns, **fields):
    roles = ("user", "assistant") * len(turns)
    messages = tuple(
        Message(role=role, content=turn) for role, turn in zip(roles, turns, strict=False)
    )
    return Example(**{"id": "1", "source": "s", "kind": "benign", **fields}, messages=messages)


def values(example):
    return {facet: value_of(example, facet) for facet in FACETS}


def test_every_facet_has_a_value_of_every_row():
    plain = row("Qwerty")
    assert values(plain) == {
        "kind": "benign",
        "category": NONE,
        "source": "s",
        "tenant": NONE,
        "language": NONE,
        "rewrite": NONE,
        "turn": "first",
    }
    told = replace(plain, traits=(("tenant", "acme"), ("language", "de-AT"), ("rewrite", "tense")))
    assert {facet: value_of(told, facet) for facet in TOLD} == dict(told.traits)


def test_a_later_turn_follows_an_answer():
    assert value_of(row("Hi", "Hello"), "turn") == "first"  # the answer is the reply to learn
    assert value_of(row("Hi", "Hello", "And now?"), "turn") == "later"


def test_a_rewritten_row_says_how():
    made = rewritten_rows([row("How do I bake bread?", kind="benign")], ["tense"], 2.0, 0)
    assert [value_of(e, "rewrite") for e in made] == ["tense"]


def test_columns_that_rows_lack_say_nothing_and_white_space_runs_to_one_space():
    assert told_traits({"tenant": "a  b"}.get) == (("tenant", "a b"),)


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("How can I change my password?", "en"),
        ("Wie kann ich mein Passwort \u00e4ndern?", "de"),
        ("Comment puis-je changer mon mot de passe ?", "fr"),
        ("\u00bfC\u00f3mo puedo cambiar mi contrase\u00f1a?", "es"),
        ("Come posso cambiare la mia password?", "it"),
        ("Como posso mudar a minha senha?", "pt"),
        ("Hoe kan ik mijn wachtwoord veranderen?", "nl"),
        ("\u041a\u0430\u043a \u043c\u043d\u0435 \u0431\u044b\u0442\u044c?", "ru"),
        ("\u30d1\u30b9\u30ef\u30fc\u30c9\u306e\u5909\u66f4\u65b9\u6cd5", "ja"),
        ("\u5982\u4f55\u66f4\u6539\u5bc6\u7801", "zh"),
        ("\ube44\ubc00\ubc88\ud638", "ko"),
        ("12 + 30 = ?", None),
        ("Qwerty", None),
        ("", None),
    ],
)
def test_the_language_shows_in_letters_and_little_words(text, language):
    assert written_language(text) == language


def test_a_guess_says_something_where_a_second_language_is_more_than_a_slip():
    assert not says_something({"en": 995, "de": 5, NONE: 20}, "language", told=0)
    assert says_something({"en": 960, "de": 40}, "language", told=0)
    assert says_something({"en": 1000}, "language", told=1)
    assert not says_something({NONE: 1000}, "tenant", told=0)
