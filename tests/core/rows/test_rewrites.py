import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from demur.base.errors import ConfigError
from demur.core.example import Example, Message, fold
from demur.core.rows.rewrites import REWRITES, rewrite, rewrite_prompt, rewritten_rows

names = st.sampled_from(sorted(REWRITES))


@given(names, st.text(max_size=80), st.integers(0, 3))
def test_a_text_under_a_seed_is_always_rewritten_alike_whatever_it_holds(name, text, seed):
    assert rewrite(name, text, seed) == rewrite(name, text, seed)
    if any(c.isalnum() for c in text):
        assert rewrite(name, text, seed).strip()


@given(
    st.lists(
        st.sampled_from(("please", "explain", "photosynthesis", "to", "my", "class")),
        min_size=1,
        max_size=30,
    )
)
def test_typos_touch_few_words_and_never_the_first_letter(words):
    typed = rewrite("typos", " ".join(words)).split()
    long = sum(len(w) >= 4 for w in words)
    changed = [(a, b) for a, b in zip(words, typed, strict=True) if a != b]
    assert len(changed) == -(-long // 12)
    assert all(a[0] == b[0] and abs(len(a) - len(b)) <= 1 for a, b in changed)


@given(
    names,
    st.sampled_from(
        ("How do I bake bread?", "Write a poem.", "What's up, doc?", "I can't sleep; help!")
    ),
)
def test_every_rewrite_changes_an_ordinary_request(name, text):
    assert rewrite(name, text) != text


@given(
    st.sampled_from(("case", "punctuation")),
    st.text(alphabet="abcdef ,.!?", min_size=1, max_size=40),
)
def test_case_and_punctuation_keep_the_words(name, text):
    assert fold(rewrite(name, text)) == fold(text)


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("tense", "How do I make it, and is it safe?", "How did I make it, and was it safe?"),
        ("tense", "Can you tell me?", "Could you tell me?"),
        ("tense", "I can't see {x}", "Some years ago people asked this: I can't see {x}"),
        ("paraphrase", "I cannot open it", "I can't open it"),
    ],
)
def test_rules_say_what_they_should(name, text, said):
    assert rewrite(name, text) == said


@given(st.text(max_size=80), st.integers(0, 50))
def test_padding_stands_on_lines_of_its_own_around_the_text(text, seed):
    padded = rewrite("padding", text, seed)
    assert padded.startswith(f"{text}\n") or padded.endswith(f"\n{text}") or f"\n{text}\n" in padded
    assert len(padded) > len(text) + 15


def test_paddings_are_of_many_scripts_and_lengths():
    padded = [rewrite("padding", "How?", seed) for seed in range(200)]
    assert (
        len({unicodedata.name(p.replace("How?", "").strip()[0], "?").split()[0] for p in padded})
        > 10
    )
    assert min(map(len, padded)) < 60
    assert max(map(len, padded)) > 300


def row(n, kind):
    said = (
        Message(role="user", content=f"Question {n}?"),
        Message(role="assistant", content=f"Answer {n}."),
    )
    return Example(
        id=f"r{n}",
        source="s",
        messages=said,
        kind=kind,
        category=None if kind == "benign" else "safety",
    )


def test_further_rows_are_half_refusals_and_keep_their_reply_and_label():
    rows = [row(n, "refusal" if n % 5 == 0 else "benign") for n in range(200)]
    more = rewritten_rows(rows, ("padding", "case"), 0.1, seed=3)
    before = {e.id: e for e in rows}
    assert len(more) == 20
    assert sum(e.kind == "refusal" for e in more) == 10
    assert {e.id.partition("~")[2] for e in more} == {"padding", "case"}
    for made in more:
        was = before[made.id.partition("~")[0]]
        assert (made.label, made.reply, made.text != was.text) == (was.label, was.reply, True)
    assert rewritten_rows(rows[::-1], ("padding", "case"), 0.1, seed=3) == more
    assert rewritten_rows(rows, (), 0.0, seed=3) == []


def test_only_the_users_last_message_is_rewritten():
    turns = (
        Message(role="user", content="Who are you?"),
        Message(role="assistant", content="A program."),
        Message(role="user", content="Are you sure?"),
    )
    rewritten = rewrite_prompt("tense", turns)
    assert rewritten[:2] == turns[:2]
    assert rewritten[2] == Message(role="user", content="Were you sure?")


def test_an_unknown_rewrite_is_named():
    with pytest.raises(ConfigError, match="unknown rewrite 'rhyme'"):
        rewrite("rhyme", "x")
