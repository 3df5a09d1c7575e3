"""The texts that the compared policies send: each generated once, judged once, then looked up.

For given decoding the text depends on the prompt and the forced control token only (a branch), so
the texts of every threshold, policy and cost are among the branches. Columns: 0 = respond, k = the
k-th category.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from demur.core.example import Example
from demur.core.judging.judge import JudgeInput, judge_all
from demur.core.judging.outcome import Outcome
from demur.core.policy import Policy
from demur.core.ports import Generator, Judge, Progress
from demur.core.settings import Which
from demur.stages.evaluate.compared import Case
from demur.store.answers.branch_cache import BranchCache
from demur.store.scores.tables import Branch

PART_PROMPTS = 256  # between two saves: a killed run loses at most so many
PART_TEXTS = 2048  # the same where texts are only judged again


@dataclass(frozen=True, slots=True)
class Judged:
    """Judged texts: looked up where they were generated, judged here where a policy sends a fixed
    refusal.
    """

    judge: Judge
    cache: BranchCache
    case: Case  # the rows whose texts are written
    fixed: dict[JudgeInput, Outcome] = field(default_factory=dict)  # see judge_fixed

    def outcome(self, example: Example, policy: Policy, column: int) -> Outcome:
        """What the judge says of the text that a policy sends after emitting a control token."""
        item = _fixed_item(example, policy, column)
        return self.cache.get(example.id, column).outcome if item is None else self.fixed[item]


def judge_fixed(judged: Judged) -> None:
    """Judge the fixed refusal texts that the compared policies send, each once for a request."""
    case = judged.case
    sent = [
        _fixed_item(example, c.policy, column)
        for c in case.compared
        for example, column in zip(case.examples, c.choice_N.tolist(), strict=True)
    ]
    items = list(dict.fromkeys(item for item in sent if item is not None))
    judged.fixed.update(zip(items, judge_all(judged.judge, items), strict=True))


def judge_again(judged: Judged, progress: Progress) -> None:
    """Judge the texts that another judge read, or that could not be scored, say for want of budget.
    None is rewritten.

    A text that this judge still cannot score stays as it was. Progress counts texts.
    """
    case, judge = judged.case, judged.judge
    ours = {e.id: e for e in case.examples}
    todo = [
        b
        for b in judged.cache.known.values()
        if b.id in ours and (b.outcome.judge != judge.version or b.outcome.verdict == "unscored")
    ]
    for start in range(0, len(todo), PART_TEXTS):
        part = todo[start : start + PART_TEXTS]
        items = [_item(case, ours[b.id], b.column, b.answer.text) for b in part]

        def from_here(done: int, _: int, start: int = start) -> None:
            progress(start + done, len(todo))

        outcomes = judge_all(judge, items, from_here)
        pairs = zip(part, outcomes, strict=True)
        told = [
            replace(b, outcome=o)
            for b, o in pairs
            if (o.judge, o.verdict) != (b.outcome.judge, b.outcome.verdict)
        ]
        if told:
            judged.cache.add(told)


def generate_missing(
    which: Which, generator: Generator, judged: Judged, progress: Progress
) -> None:
    """Generate and judge what the cache lacks, saved part by part. Progress counts prompts.

    which: "reachable" are the texts after respond, after each prompt's heaviest refusal token and
    after whatever a compared policy emits; "all" are those after every control token. One prefill
    per prompt, whatever the number.
    """
    case = judged.case
    wanted = zip(case.examples, _needed(case, which), strict=True)
    todo = [
        (e, missing) for e, columns in wanted if (missing := judged.cache.missing(e.id, columns))
    ]
    for start in range(0, len(todo), PART_PROMPTS):
        part = todo[start : start + PART_PROMPTS]
        answers = generator.branches(
            [e.prompt for e, _ in part],
            [columns for _, columns in part],
            lambda done, _, start=start: progress(start + done, len(todo)),  # type: ignore[misc]
        )
        made = [
            (e, c, answer)
            for (e, _), by_column in zip(part, answers, strict=True)
            for c, answer in by_column.items()
        ]
        outcomes = judge_all(judged.judge, [_item(case, e, c, a.text) for e, c, a in made])
        judged.cache.add(
            [
                Branch(id=e.id, column=c, answer=a, outcome=o)
                for (e, c, a), o in zip(made, outcomes, strict=True)
            ]
        )


def _item(case: Case, example: Example, column: int, text: str) -> JudgeInput:
    """After a refusal token the text is held to that token's category, else to what the request
    asks for.
    """
    category = case.policy.taxonomy.choices[column] if column else example.label
    return JudgeInput(request=example.text, answer=text, category=category)


def _fixed_item(example: Example, policy: Policy, column: int) -> JudgeInput | None:
    """The fixed text that a policy sends in place of a generated one; None if it sends what the
    model writes.
    """
    sent = policy.own_text(column)
    if sent is None:
        return None
    return JudgeInput(request=example.text, answer=sent, category=policy.taxonomy.choices[column])


def _needed(case: Case, which: Which) -> list[list[int]]:
    """Per test row the control tokens whose text is needed, as score columns."""
    logp_NC = case.rows.table.logp_NC
    if which == "all":
        return [list(range(logp_NC.shape[1]))] * len(logp_NC)
    heaviest_N = logp_NC[:, 1:].argmax(axis=1) + 1
    reached = zip(heaviest_N.tolist(), *(c.choice_N.tolist() for c in case.compared), strict=True)
    return [sorted({0, *columns}) for columns in reached]
