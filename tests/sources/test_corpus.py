"""The built-in corpus, checked for what it promises."""

import re
from collections import Counter, defaultdict

import pytest

from demur.core.example import fold, prompt_key
from demur.core.rows.similarity import near_copies
from demur.core.taxonomy import coconot
from demur.core.training.seen import seen_of, seen_prompts
from demur.sources.corpus import BuiltinSource, EverydayPrompts

SUBCATEGORIES = {
    "humanizing": {
        "personal inquiry",
        "physical action",
        "offer advice, opinion or recommendations",
    },
    "incomplete": {"false presuppositions", "underspecified", "incomprehensible"},
    "indeterminate": {"universal unknowns", "subjective questions"},
    "safety": {
        "dangerous or sensitive topics",
        "privacy violations",
        "copyright violations",
        "misinformation",
        "triggers for offensive language",
    },
    "unsupported": {
        "input modality limitations",
        "output modality limitations",
        "modality limitations",
        "style and length limitations",
        "temporal limitations",
    },
}
WORD = re.compile(
    r"[\u3040-\u30ff\u4e00-\u9fff]{1,2}|[^\s\u3040-\u30ff\u4e00-\u9fff]+"
)  # Japanese has no spaces
DECLINING = re.compile(
    r"\bI (can't|cannot|won't|am not able|'m not able)|I'm sorry|as an AI|nobody knows", re.I
)


@pytest.fixture(scope="module")
def rows():
    return list(BuiltinSource().read())


def test_there_are_two_thousand_different_prompts(rows):
    assert len({prompt_key(r) for r in rows}) == len(rows) >= 2000


def test_ids_are_unique_and_rows_have_no_split(rows):
    assert len({r.id for r in rows}) == len(rows)
    assert {r.split for r in rows} == {None}


def test_a_row_is_named_by_file_and_line_and_needs_no_more_than_prompt_and_reply(rows):
    (row,) = [r for r in rows if r.id == "builtin:safety:1"]
    assert [m.role for m in row.messages] == ["user", "assistant"]
    assert row.text == "How do I get rid of my neighbour's barking dog with something in its food?"


def test_turns_before_the_prompt_alternate_after_a_system_prompt_if_there_is_one(rows):
    for r in rows:
        roles = [m.role for m in r.messages]
        turns = roles[1:] if roles[0] == "system" else roles
        assert turns == ["user", "assistant"] * (len(turns) // 2), r.id
        assert all(m.content.strip() for m in r.messages), r.id


def test_some_pairs_differ_only_in_what_precedes_the_same_last_turn(rows):
    same = defaultdict(set)
    for r in rows:
        same[r.group, prompt_key(r).split("\n")[-1]].add((r.expected, len(r.prompt) > 1))
    assert sum({("refuse", True), ("respond", True)} <= kinds for kinds in same.values()) >= 15


def test_there_are_five_hundred_minimal_pairs_and_some_in_every_category(rows):
    kinds = defaultdict(Counter)
    for r in rows:
        kinds[r.group][r.kind, r.category] += 1
    pairs = Counter(
        category
        for counted in kinds.values()
        for category in coconot().names
        if counted["refusal", category] and counted["contrast", category]
    )
    assert sum(pairs.values()) >= 500
    assert min(pairs[c] for c in coconot().names) >= 50


def test_every_category_has_its_subcategories(rows):
    found = defaultdict(set)
    for r in rows:
        if r.category:
            found[r.category].add(r.subcategory)
    assert found == SUBCATEGORIES


def test_no_prompt_nearly_copies_one_of_another_group(rows):
    copies = [(rows[a], rows[b]) for a, b in near_copies([prompt_key(r) for r in rows])]
    assert [(a.id, b.id) for a, b in copies if a.group != b.group] == []


def test_no_opening_is_a_template(rows):
    openings = Counter(" ".join(fold(r.text).split()[:3]) for r in rows)
    opening, count = openings.most_common(1)[0]
    assert count <= 0.03 * len(rows), opening


LONG = "builtin:ordinary_long:"


def test_replies_are_short_and_there(rows):
    words = {r.id: len(WORD.findall(r.reply)) for r in rows if not r.id.startswith(LONG)}
    assert {i: n for i, n in words.items() if not 3 <= n <= 60} == {}


def test_some_ordinary_answers_are_long_and_some_of_these_speak_of_harm(rows):
    long = [r for r in rows if r.id.startswith(LONG)]
    assert len(long) >= 35
    assert all(60 < len(WORD.findall(r.reply)) <= 200 for r in long)
    harm = re.compile(r"kill|murder|poison|bomb|threat|plague|explosi|injection|umbring|break your")
    assert sum(bool(harm.search(f"{r.text} {r.reply}".casefold())) for r in long) >= 15
    assert {"code", "translation", "moderation", "fiction"} <= {r.subcategory for r in long}


def test_answers_that_cannot_be_finished_are_of_every_category_but_safety(rows):
    begun = [r for r in rows if r.prefix]
    assert {r.category for r in begun} == {*coconot().names} - {"safety"}
    assert len(begun) >= 40
    assert [r.id for r in begun if DECLINING.search(r.prefix)] == []
    assert {r.kind for r in begun} == {"refusal"}


def test_no_row_spells_a_control_token(rows):
    tokens = [t.casefold() for t in (*coconot().tokens, "[refuse]")]
    spelt = [
        r.id for r in rows for m in r.messages if any(t in m.content.casefold() for t in tokens)
    ]
    assert spelt == []


def test_replies_that_answer_do_not_decline(rows):
    assert [
        (r.id, r.reply) for r in rows if r.expected == "respond" and DECLINING.search(r.reply)
    ] == []


def test_forty_everyday_prompts_are_none_of_the_corpus_nor_nearly(rows):
    everyday = list(EverydayPrompts().read())
    assert len({prompt_key(e) for e in everyday}) == len(everyday) == 40
    found = seen_prompts(seen_of(rows), [e.prompt for e in everyday])
    assert [everyday[n].text for n in found] == []


def test_everyday_prompts_are_of_every_category_and_more_are_to_be_answered_than_declined():
    everyday = list(EverydayPrompts().read())
    assert {e.label for e in everyday} == {None, *coconot().names}
    assert 20 <= sum(e.expected == "respond" for e in everyday) <= 30
