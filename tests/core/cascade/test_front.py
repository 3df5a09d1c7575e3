import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from demur.core.cascade.front import FrontEdges, cascade_scores, most_unknown, system_digest
from demur.core.example import Message
from demur.core.score import check_scores
from tests.front_parts import (
    NAMES,
    PLAIN,
    Counted,
    front,
    model,
    texts,
    user,
    wide_range,
    with_edges,
)

EDGE = st.one_of(st.none(), st.floats(-6, 6))
LONG = " ".join(PLAIN * 3)
front()  # fitted once, before Hypothesis looks at the clock


def asked_through(made, prompts):
    """The cascade's scores, which of them the front gave, and what the model was asked."""
    scorer = Counted(model())
    logp_NC, front_N = cascade_scores(
        made, prompts, lambda at: scorer.logp([prompts[n] for n in at])
    )
    return logp_NC, front_N, scorer.asked


@given(answer=EDGE, refuse=EDGE, seed=st.integers(0, 50))
def test_where_the_front_is_unsure_the_cascade_is_the_model(answer, refuse, seed):
    made = with_edges(front(), FrontEdges(answer=answer, refuse=refuse))
    prompts = [user(t) for t in texts(8, seed)]
    logp_NC, front_N, asked = asked_through(made, prompts)
    alone_NC = model().logp(prompts)
    assert np.array_equal(logp_NC[~front_N], alone_NC[~front_N])
    assert asked == [p for p, by_front in zip(prompts, front_N, strict=True) if not by_front]
    for prompt, logp_C, by_front in zip(prompts, logp_NC, front_N, strict=True):
        reading = made.read(prompt[-1].content)
        sure = (answer is not None and reading.risk <= answer) or (
            refuse is not None and reading.odds >= refuse
        )
        assert by_front == (sure and made.outside(prompt) is None)
        assert not by_front or np.array_equal(logp_C, reading.logp_C)


def test_the_front_of_these_tests_is_sure_on_both_sides():
    assert None not in (front().edges.answer, front().edges.refuse)


def test_a_front_without_edges_decides_nothing():
    prompts = [user(t) for t in texts(40, 3)]
    _, front_N, asked = asked_through(
        with_edges(front(), FrontEdges(answer=None, refuse=None)), prompts
    )
    assert not front_N.any()
    assert asked == prompts


def test_what_the_front_learnt_it_decides_as_the_model_does():
    prompts = [user(t) for t in texts(600, 11)]
    logp_NC, front_N, _ = asked_through(front(), prompts)
    alone_NC = model().logp(prompts)
    assert front_N.mean() > 0.5
    differs_N = logp_NC.argmax(axis=1) != alone_NC.argmax(axis=1)
    assert differs_N[front_N].mean() <= 0.05


@given(text=st.text(max_size=120))
def test_a_front_reads_any_text_and_its_scores_are_scores(text):
    made = with_edges(front(), FrontEdges(answer=math.inf, refuse=None), wide_range())
    reading = made.read(text)
    check_scores(reading.logp_C[None, :])
    assert reading.risk >= reading.odds
    assert made.given(user(text)) is None or made.outside(user(text)) is None


OUTSIDE = {
    "an earlier turn": (
        *user("moner ralat."),
        Message(role="assistant", content="tidom"),
        *user("moner ralat tidom."),
    ),
    "a system message that its traffic did not have": (
        Message(role="system", content="Be kind."),
        *user("moner."),
    ),
    "two messages of the user": (*user("moner ralat."), *user("moner ralat.")),
    "a control token": user("moner ralat [respond]."),
    "letters of another script": user("moner r\u0430lat tidom."),
    "an invisible character": user("moner ral\u200bat tidom."),
    "capital letters that its traffic does not hold": user("MONER ralat tidom."),
    "more words": user(LONG),
    "no word": user("..."),
    "nothing": user(""),
    "unknown words": user("gromp tilk moner."),
}


@pytest.mark.parametrize("kind", OUTSIDE)
def test_what_is_outside_its_traffic_is_handed_over(kind):
    sure = with_edges(front(), FrontEdges(answer=math.inf, refuse=None))
    assert sure.given(user("moner ralat tidom.")) is not None
    assert sure.outside(OUTSIDE[kind]) is not None
    assert sure.given(OUTSIDE[kind]) is None


def test_a_system_message_of_its_traffic_is_within():
    message = Message(role="system", content="Be brief.")
    prompt = (message, *user("moner ralat tidom."))
    own = replace(front().range, systems=frozenset({system_digest(prompt)}))
    made = with_edges(front(), FrontEdges(answer=math.inf, refuse=None), own)
    assert made.outside(prompt) is None
    assert made.outside(prompt[1:]) is not None


@given(before=st.integers(0, 60), after=st.integers(0, 60), name=st.sampled_from(NAMES))
def test_no_padding_hides_a_cue(before, after, name):
    made = with_edges(front(), front().edges, wide_range())
    core = f"moner {name} ralat tidom"
    padded = " ".join([*(PLAIN * 2)[:before], core, *(PLAIN * 2)[:after]]) + "."
    given = made.given(user(padded))
    assert given is None or given.argmax() > 0


def test_dilution_would_hide_it_from_a_front_that_reads_whole_texts_only():
    made = front()
    padded = made.read(f"{LONG} safety {LONG}.")
    assert padded.odds < made.edges.answer < padded.risk


def test_unknown_words_are_counted_in_the_worst_stretch():
    assert most_unknown([True] * 20 + [False] * 5 + [True] * 20 + [False] * 3) == 5
    assert most_unknown([False, True]) == 1
    assert most_unknown([]) == 0
