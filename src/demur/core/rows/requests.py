"""The requests behind a row, by its own columns: how many there were, and the session that they
came in.
"""

from __future__ import annotations

import re

from demur.base.errors import DataError
from demur.core.rows.labels import LabelRule, cell
from demur.core.rows.shapes import Row, text_cell

MOST_REQUESTS = 10**12  # of one row: sums over any table of rows stay exact in 64 bits
# a whole number, also as tables write it that hold numbers with a fraction: "3.0"
_WHOLE = re.compile(r"(\d{1,30})(?:\.0*)?", re.ASCII)


def read_count(row: Row, rule: LabelRule) -> int:
    """The number of requests that a row stands for: its column `count`, or 1 if it has none.

    3, 3.0 and "3" are 3. Raises DataError with the column and its value on anything else that is
    no whole number of 1 or more, a blank cell among them, and if a column that is named is missing.
    """
    text = cell(row, rule, "count")  # raises if a column that is named is missing
    column = rule.columns.get("count", "count")
    if not column or column not in row:
        return 1
    found = _WHOLE.fullmatch(text or "")
    if found is None or not 1 <= int(found[1]) <= MOST_REQUESTS:
        value = f"{row[column]!r:.60} is no number of requests" if text else "it is blank"
        raise DataError(
            f"{column}: {value}",
            f"a whole number from 1 to {MOST_REQUESTS:,}; if the column means something else: "
            'columns = { count = "" }',
        )
    return int(found[1])


def read_session(row: Row, rule: LabelRule) -> str | None:
    """The session that a row's request came in, as text: its column `session`, else
    `conversation_id`; None if it is blank or there is neither.
    """
    own = cell(row, rule, "session")
    if own is not None or "session" in rule.columns:
        return own
    return text_cell(row, "conversation_id")
