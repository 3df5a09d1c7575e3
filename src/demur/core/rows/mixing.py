"""The mix of kinds among training rows: limits, contrast ratio and refusal share. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from demur.base.errors import DataError
from demur.core.example import Example
from demur.core.rows.splitting import uniform_hash
from demur.core.settings import DataSettings


def mixed_rows(settings: DataSettings, rows: Sequence[Example]) -> list[Example]:
    """The train rows after limits, contrast ratio and refusal share; those with the smallest hashes
    stay.

    Raises DataError if the share cannot be met because refusals and contrast rows alone are too
    many for it.
    """
    # How many rows of each kind to keep; which ones is decided last.
    count = Counter(e.kind for e in rows)
    for kind, limit in settings.limits.items():
        count[kind] = min(count[kind], limit)
    contrast = count["contrast"]
    count["contrast"] = _contrast(settings, count["refusal"], contrast)
    if settings.refusal_share is not None:
        s, benign = settings.refusal_share, count["benign"]
        # Too many refusals: drop refusals one by one, and with each the contrast rows that the
        # ratio no longer allows. Too few: drop benign rows, down to `room`.
        while count["refusal"] > s * (count["refusal"] + count["contrast"] + benign):
            count["refusal"] -= 1
            count["contrast"] = _contrast(settings, count["refusal"], contrast)
        room = round(count["refusal"] * (1 - s) / s) - count["contrast"]
        if room < 0:
            raise DataError(
                f"refusal_share {s} cannot be met: {count['refusal']} refusals, "
                f"{count['contrast']} contrast rows",
                "lower contrast_ratio or refusal_share",
            )
        count["benign"] = min(benign, room)
    # By hash of the id, so that a row stays whatever other rows a source gains.
    by_hash = sorted(rows, key=lambda e: uniform_hash(settings.seed, e.id))
    kept = {e.id for kind in count for e in [e for e in by_hash if e.kind == kind][: count[kind]]}
    return [e for e in rows if e.id in kept]


def _contrast(settings: DataSettings, refusals: int, there: int) -> int:
    """The number of contrast rows to keep beside `refusals` refusals, of `there` at hand."""
    return (
        there
        if settings.contrast_ratio is None
        else min(there, round(settings.contrast_ratio * refusals))
    )
