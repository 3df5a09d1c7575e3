"""Validation rows: nothing that hangs together with them is learnt."""

from hypothesis import given
from hypothesis import strategies as st

from demur.core.example import Example, Message, prompt_key
from demur.core.rows.similarity import near_copies
from demur.core.rows.splitting import hold_out

WORDS = ("tea", "rain", "kite", "harbour", "chess", "violin", "bread", "snow", "owl", "moon")


def row(n: int, text: str, group: str | None) -> Example:
    kind, category = ("benign", None) if n % 3 else ("refusal", ("safety", "incomplete")[n % 2])
    turn = Message(role="user", content=text)
    return Example(
        id=str(n), source="s", messages=(turn,), kind=kind, category=category, group=group
    )


TEXTS = st.lists(st.sampled_from(WORDS), min_size=1, max_size=7).map(" ".join)
ROWS = st.lists(st.tuples(TEXTS, st.sampled_from([None, "g1", "g2", "g3"])), max_size=60).map(
    lambda some: [row(n, text, group) for n, (text, group) in enumerate(some)]
)


@given(rows=ROWS, share=st.floats(0.05, 0.5), seed=st.integers(0, 3))
def test_no_prompt_near_copy_or_group_is_on_both_sides(rows, share, seed):
    learnt, aside = hold_out(rows, share, seed)
    assert sorted((e.id for e in (*learnt, *aside)), key=int) == [e.id for e in rows]
    assert not {e.group for e in learnt if e.group} & {e.group for e in aside if e.group}
    assert not {prompt_key(e) for e in learnt} & {prompt_key(e) for e in aside}
    both = [*learnt, *aside]
    crossing = [
        (a, b)
        for a, b in near_copies([prompt_key(e) for e in both])
        if (a < len(learnt)) != (b < len(learnt))
    ]
    assert not crossing


def test_the_share_is_met_in_every_label_and_depends_on_the_seed_alone():
    rows = [row(n, f"{n} different words number {n} alone", None) for n in range(300)]
    learnt, aside = hold_out(rows, 0.1, 1)
    assert (len(learnt), len(aside)) == (270, 30)
    assert {
        label: sum(e.label == label for e in aside) for label in (None, "safety", "incomplete")
    } == {
        None: 20,
        "safety": 5,
        "incomplete": 5,
    }
    assert hold_out(rows, 0.1, 1) == (learnt, aside)
    assert hold_out(rows, 0.1, 2)[1] != aside
    assert hold_out(rows, 0.0, 1) == (rows, [])
