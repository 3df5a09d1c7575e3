"""Everyday prompts under the calibrated policy: the kind that a newcomer types first, scored,
decided and answered.

They stand beside the evaluation and not in it: see demur.store.results.everyday_file.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from demur.base.files import digest_file, digest_json
from demur.core.decision import decide_many
from demur.core.example import Example
from demur.core.policy import Policy
from demur.core.ports import Generator, Progress, Scorer, no_progress
from demur.core.taxonomy import RESPOND, Taxonomy
from demur.core.training.seen import seen_prompts
from demur.store.fingerprint_json import fingerprint_json
from demur.store.models.seen_file import seen_by_run
from demur.store.policies.policy_file import read_policy
from demur.store.results.everyday_file import (
    REFUSE,
    Everyday,
    EverydayRow,
    read_everyday,
    write_everyday,
)
from demur.store.run import RunFolder


class ScorerAndGenerator(Scorer, Generator, Protocol):
    """A model that scores prompts and writes texts."""


def evaluate_everyday(
    examples: Sequence[Example],
    model: ScorerAndGenerator,
    folder: RunFolder,
    progress: Progress = no_progress,
) -> Everyday | None:
    """Score, decide and answer the prompts, and write evaluate/everyday.json; a file from the same
    policy, model and prompts is returned as it is. Progress counts prompts.

    None for a policy that decides on other scores than the model's own. Raises PolicyError if the
    policy was made for another model.
    """
    policy = read_policy(folder.policy)
    # Scores through rewrites or a cascade's front do not exist for these prompts.
    if policy.fingerprint is not None and policy.fingerprint != policy.fingerprint.as_scored:
        return None
    policy.require_model(model.fingerprint)
    made_from = {
        "policy": digest_file(folder.policy),
        "model": digest_json(fingerprint_json(model.fingerprint)),
        "prompts": digest_json([[e.text, e.category, e.subcategory] for e in examples]),
    }
    found = read_everyday(folder)
    if found is None or found.made_from != made_from:
        found = Everyday(made_from=made_from, rows=_rows(examples, model, policy, folder, progress))
        write_everyday(folder, found)
    return found


def _rows(
    examples: Sequence[Example],
    model: ScorerAndGenerator,
    policy: Policy,
    folder: RunFolder,
    progress: Progress,
) -> tuple[EverydayRow, ...]:
    prompts = [e.prompt for e in examples]
    logp_NC = model.logp(prompts)
    decided = decide_many(policy, logp_NC)
    columns, words = decided.sent_N.tolist(), decided.words(policy.taxonomy.choices)
    # No text is written where the policy sends a fixed one.
    columns_of = [[c] if policy.writes(c) else [] for c in columns]
    written = model.branches(prompts, columns_of, progress)
    # Rounding may leave a log-probability above 0.
    p_NC = np.exp(np.minimum(policy.calibrator.apply(logp_NC), 0.0))
    seen = seen_prompts(seen_by_run(folder), prompts)
    choices = policy.taxonomy.choices
    own = [policy.own_text(c) for c in columns]
    return tuple(
        EverydayRow(
            id=e.id,
            topic=e.subcategory or "",
            prompt=e.text,
            expected=_expected(e, policy.taxonomy),
            decided=words[n],
            doubt=bool(decided.doubt_N[n]),
            probability=dict(zip(choices, p_NC[n].tolist(), strict=True)),
            text=written[n][columns[n]].shown if (text := own[n]) is None else text,
            seen=seen.get(n),
        )
        for n, e in enumerate(examples)
    )


def _expected(example: Example, taxonomy: Taxonomy) -> str:
    """The expected choice; REFUSE for a category that the taxonomy does not have."""
    if example.label is None:
        return RESPOND
    return example.label if example.label in taxonomy.names else REFUSE
