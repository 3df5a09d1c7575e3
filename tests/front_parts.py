"""Traffic of made-up words, a model that reads cues in it, and a front that learnt that model: for
tests of cascades.

The model is the fake engine: its cue is a category's name as a word.
"""

from __future__ import annotations

from functools import cache

import numpy as np

from demur.core.cascade.front import Front, FrontEdges, TrafficRange
from demur.core.decision import decide_many
from demur.core.example import Example, Message
from demur.core.policy import natural
from demur.core.taxonomy import coconot
from demur.engines.fake.engine import FakeEngine
from demur.stats.text.front_edges import HeldOutPrompts, choose_edges
from demur.stats.text.front_fit import fit_linear, fit_range

ENDS = ("ner", "lat", "dom", "vis")
PLAIN = tuple(a + b for a in ("mo", "ra", "ti", "lu", "se", "no", "ka", "pi", "wo") for b in ENDS)
NAMES = coconot().names


def model(sharpness: float = 4.0) -> FakeEngine:
    return FakeEngine(taxonomy=coconot(), sharpness=sharpness)


class Counted:
    """A scorer that remembers what it was asked."""

    def __init__(self, scorer) -> None:
        self.scorer, self.asked = scorer, []

    @property
    def fingerprint(self):
        return self.scorer.fingerprint

    def logp(self, prompts, progress=lambda done, total: None):
        self.asked += prompts
        return self.scorer.logp(prompts, progress)


def user(text: str) -> tuple[Message, ...]:
    return (Message(role="user", content=text),)


def texts(count: int, seed: int, refused: float = 0.3, odd: float = 0.0) -> list[str]:
    """Sentences of 4 to 14 words, so many of which hold a cue. odd: share of words that nobody has
    written before.
    """
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(count):
        words = [str(w) for w in rng.choice(PLAIN, int(rng.integers(4, 15)))]
        for at in np.flatnonzero(rng.random(len(words)) < odd):
            words[at] = "".join(rng.choice(list("abcdefghijklmnopqrstuvwxyz"), size=6))
        if rng.random() < refused:
            words[int(rng.integers(len(words)))] = str(rng.choice(NAMES))
        made.append(" ".join(words) + str(rng.choice([".", "?"])))
    return made


def examples(count: int, seed: int) -> tuple[Example, ...]:
    """Labelled rows of such texts: the label is the cue's."""
    made = []
    for n, text in enumerate(texts(count, seed)):
        hit = next((name for name in NAMES if name in text), None)
        what = {"kind": "refusal", "category": hit} if hit else {"kind": "benign"}
        made.append(Example(id=f"{seed}-{n}", source="made", messages=user(text), **what))
    return tuple(made)


@cache
def front(bound: float = 0.05, count: int = 2000, odd: float = 0.0) -> Front:
    """A front that learnt the model on 70 % of so much traffic, with edges from the rest. odd: see
    texts.
    """
    teacher, some = model(), [user(t) for t in texts(count, 0, odd=odd)]
    fitted, held = some[: int(0.7 * count)], some[int(0.7 * count) :]
    blank = Front(
        taught_by=teacher.fingerprint,
        linear=fit_linear([p[-1].content for p in fitted], teacher.logp(fitted)).linear,
        range=fit_range(fitted, held),
        edges=FrontEdges(answer=None, refuse=None),
    )
    readings = [blank.read(p[-1].content) for p in held]
    policy = natural(coconot(), teacher.fingerprint)
    theirs = decide_many(policy, teacher.logp(held)).choice_N
    ours = decide_many(policy, np.array([r.logp_C for r in readings])).choice_N
    found = HeldOutPrompts(
        odds_N=np.array([r.odds for r in readings]),
        risk_N=np.array([r.risk for r in readings]),
        both_answer_N=(theirs == 0) & (ours == 0),
        both_refuse_N=(theirs > 0) & (ours == theirs),
    )
    return with_edges(blank, choose_edges(found, bound).edges)


def with_edges(front: Front, edges: FrontEdges, own: TrafficRange | None = None) -> Front:
    return Front(
        taught_by=front.taught_by, linear=front.linear, range=own or front.range, edges=edges
    )


def wide_range() -> TrafficRange:
    """The front's range without its bounds on length and on unknown words."""
    own = front().range
    return TrafficRange(
        letters=own.letters,
        words=own.words,
        systems=own.systems,
        most_letters=10**6,
        most_words=10**6,
        most_unknown=10**6,
        least_known=0.0,
    )
