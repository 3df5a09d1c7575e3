"""Categories that are suppressed or forced after thresholds are chosen: nothing is chosen again
because of it.

A suppressed category's token is never emitted: a request whose heaviest category it is, is decided
by the next heaviest one, under that one's own threshold. All other requests are decided exactly as
before. A forced category is emitted for every request. What had been certified was certified of
other decisions, so it no longer is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from demur.core.goals.goal import Promise
from demur.core.goals.promised import promised
from demur.core.midway.monitor import Monitor
from demur.core.policy import Override, Policy
from demur.core.rates import Rate, stored
from demur.core.threshold import NEVER
from demur.stats.labelled import LabelledScores
from demur.stats.thresholds.losses import rate_under


def override_categories(
    policy: Policy, overrides: Mapping[str, Override], rows: LabelledScores
) -> Policy:
    """Suppress or force categories of a policy; thresholds and curves stay as they are.

    Certified promises become uncertified, with the rate that is seen on these rows now. One of
    missed refusals stays where a category is forced: then none is missed, and it says so. Raises
    TaxonomyError on an unknown category, PolicyError where two are forced.
    """
    if not overrides:
        return policy
    categories = list(policy.categories)
    for name, override in overrides.items():
        at = policy.taxonomy.index(name)
        categories[at] = replace(categories[at], override=override)
    made = replace(policy, categories=tuple(categories), monitor=_without(policy, overrides))
    named = ", ".join(
        f"{name} {'suppressed' if o == 'suppress' else 'forced'}" for name, o in overrides.items()
    )
    forced = "force" in overrides.values()

    def as_served(promise: Promise) -> Promise:
        # a forced first token moves no stop
        if promise.status != "certified" or (
            promise.goal.midway and made.monitor == policy.monitor
        ):
            return promise
        if forced and promised(promise.goal).errs_when != "refused":
            # everything is refused: no decision can be one of its errors
            mix = tuple(
                replace(part, rate=Rate(hits=0, of=part.rate.of), by_units=None)
                for part in promise.mix
            )
            rate = promise.rate and Rate(hits=0, of=promise.rate.of)
            method = f"{promise.method}; {named}: none is missed"
            return replace(promise, rate=rate, by_units=None, mix=mix, method=method)
        return _withdrawn(promise, made, rows, named)

    return replace(made, promises=tuple(map(as_served, policy.promises)))


def _without(policy: Policy, overrides: Mapping[str, Override]) -> Monitor | None:
    """The monitor without suppressed categories: their tokens are emitted in mid-answer no more
    than at the first position.
    """
    if policy.monitor is None:
        return None
    thresholds = tuple(
        NEVER if overrides.get(name) == "suppress" else threshold
        for name, threshold in zip(policy.taxonomy.names, policy.monitor.thresholds, strict=True)
    )
    if all(threshold == NEVER for threshold in thresholds):
        return None
    return replace(policy.monitor, thresholds=thresholds)


def _withdrawn(promise: Promise, policy: Policy, rows: LabelledScores, named: str) -> Promise:
    """The promise as uncertified: it does not hold of these decisions. With the rate on these rows,
    if they can tell.
    """
    bare = replace(
        promise,
        status="uncertified",
        confidence=None,
        rate=None,
        by_units=None,
        mix=(),
        method=(
            f"not certified: thresholds were chosen before {named}; to choose them without it, "
            "make it inactive"
        ),
    )
    # a suppressed category refuses nothing: a rate of its own token says nothing any more
    if not all(policy.category(name).may_emit for name in promise.goal.categories):
        return bare
    rate, mix = rate_under(policy, promise.goal, rows, seed=0)
    counts, by_units = stored(rate)
    return replace(bare, rate=counts, by_units=by_units, mix=mix)
