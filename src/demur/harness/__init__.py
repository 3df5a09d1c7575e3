"""demur inside other people's evaluation harnesses: a run's model under a policy, refusal tasks,
and their scores.
"""

from __future__ import annotations

from pathlib import Path

TASKS = Path(__file__).parent / "tasks"  # what lm-evaluation-harness is given as --include_path
