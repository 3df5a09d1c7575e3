"""Adapters to evaluation harnesses: a run's model under a policy, refusal tasks, and their scores.

`inspect_face` is for Inspect AI, `lm_face` and `lm_tasks` for lm-evaluation-harness. Both build on
`evaluated_model` (the run) and `task_rows` (rows and their scores), which name no harness.
"""

from __future__ import annotations

from pathlib import Path

TASKS = Path(__file__).parent / "tasks"  # what lm-evaluation-harness is given as --include_path
