"""Operating points: the points of a policy's own thresholds on the operating curves that it
carries, and warnings about categories that it never refuses.
"""

from __future__ import annotations

from demur.core.policy import CategoryPolicy, CurvePoint, Policy


def operating_point(category: CategoryPolicy) -> CurvePoint | None:
    """Find the curve point of the category's own threshold: the last stored one that is at least as
    strict.

    Exact for policies whose curve holds that cut, as `demur calibrate` writes them. None without a
    curve.
    """
    stricter = [p for p in category.curve if p.threshold >= category.threshold]
    return stricter[-1] if stricter else None


def never_refused(policy: Policy) -> tuple[str, ...]:
    """Categories that may be refused with and never were on the calibration rows, in the taxonomy's
    order.
    """
    found = []
    for name, category in zip(policy.taxonomy.names, policy.categories, strict=True):
        point = operating_point(category)
        # without a curve only a threshold above 1, which no probability reaches, is known to be one
        silent = category.threshold > 1.0 if point is None else point.refusal_rate.hits == 0
        if category.may_emit and silent:
            found.append(name)
    return tuple(found)


def never_refused_warnings(policy: Policy) -> tuple[str, ...]:
    """One sentence for each category that the policy never refuses."""
    found = []
    for name in never_refused(policy):
        point = operating_point(policy.category(name))
        words = f"never refuses {name}"
        if point is not None:
            missed, of = point.missed_refusal.hits, point.refusal_rate.of
            words += (
                f": 0 of {of} calibrate rows; {missed} of {point.missed_refusal.of} to be "
                "refused with it are missed"
            )
        found.append(words)
    return tuple(found)
