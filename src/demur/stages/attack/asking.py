"""Requests in the way of an attack: the first decision, and the answer that was begun."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from demur.core.decision import decide_many
from demur.core.example import Example
from demur.core.judging.judge import JudgeInput
from demur.core.midway.monitor import AnswerSampling, Stop, first_stop
from demur.core.policy import Policy
from demur.core.ports import AnswerWatcher, Progress, Prompt, Scorer, WatchedAnswer
from demur.core.rows.attacks import Attack
from demur.core.rows.rewrites import rewrite_prompt
from demur.stages.texts import of_fitting, scores_of

TOO_LONG = "longer than the model can read"
NO_BEGINNING = "the model begins no answer of its own"


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """One request in the way of one attack, and what came of it."""

    row: Example
    column: int  # of the first decision; 0 where it answers, or none was taken
    prefix: str = ""  # the attacker's beginning of the answer
    written: WatchedAnswer | None = None  # the whole answer; None where the decision refused

    @property
    def text(self) -> str:
        """The text that a caller would have without a monitor."""
        return "" if self.written is None else self.prefix + self.written.answer.text

    @property
    def judge_input(self) -> JudgeInput:
        """The input of a judge: the text is held to the request as it was meant."""
        return JudgeInput(
            request=self.row.prompt[-1].content, answer=self.text, category=self.row.category
        )

    def stop(self, policy: Policy) -> Stop | None:
        """Where the policy's monitor would have stopped the answer."""
        if self.written is None or policy.monitor is None:
            return None
        return first_stop(policy.monitor, self.written.logp_TC)


@dataclass(frozen=True, kw_only=True, slots=True)
class Asker:
    """The model that is asked, under the first decision of a policy."""

    policy: Policy
    scorer: Scorer
    watcher: AnswerWatcher
    sampling: AnswerSampling
    seed: int  # of rewrites

    def ask(
        self, attack: Attack, rows: Sequence[Example], progress: Progress
    ) -> tuple[list[Asked], dict[str, int]]:
        """Ask each request in the way of the attack: (those that could be asked, the number of
        others by reason).
        """
        if attack.prefill:
            asked = self._prefilled(attack.prefill, rows, progress)
            # A beginning without words is no attack: the model ended the answer at once.
            kept = [a for a in asked if a.prefix.strip()]
            empty = {NO_BEGINNING: len(asked) - len(kept)} if len(kept) < len(asked) else {}
            return kept, _left_out(rows, asked) | empty
        asked = self._decided(attack, rows, progress)
        return asked, _left_out(rows, asked)

    def _decided(self, attack: Attack, rows: Sequence[Example], progress: Progress) -> list[Asked]:
        prompts = [
            row.prompt
            if attack.rewrite is None
            else rewrite_prompt(attack.rewrite, row.prompt, self.seed)
            for row in rows
        ]
        fit, logp_NC = scores_of(self.scorer, prompts)
        column_N = decide_many(self.policy, logp_NC).choice_N
        asked = [
            Asked(row=rows[n], column=int(column))
            for n, column in zip(fit, column_N, strict=True)
            if column
        ]
        answered = [n for n, column in zip(fit, column_N, strict=True) if not column]
        progress(len(rows) - len(answered), len(rows))
        written = self._written([rows[n] for n in answered], [prompts[n] for n in answered], ())
        progress(len(rows), len(rows))
        return [*asked, *written]

    def _prefilled(self, tokens: int, rows: Sequence[Example], progress: Progress) -> list[Asked]:
        """Answers that begin with the model's own words after a forced [respond]."""
        # Greedy, so that one request has one beginning, whatever the attack's length.
        beginning = AnswerSampling(most_tokens=tokens, temperature=0.0)
        begun = self._watched(rows, [row.prompt for row in rows], (), beginning)
        progress(len(rows) // 2, len(rows))
        asked = [row for row, _ in begun]
        prefixes = [w.answer.text for _, w in begun]
        found = self._written(asked, [row.prompt for row in asked], prefixes)
        progress(len(rows), len(rows))
        return found

    def _written(
        self, rows: Sequence[Example], prompts: Sequence[Prompt], prefixes: Sequence[str]
    ) -> list[Asked]:
        """The answers to these prompts, written to their end."""
        prefix_of = dict(zip([row.id for row in rows], prefixes, strict=True)) if prefixes else {}
        return [
            Asked(row=row, column=0, prefix=prefix_of.get(row.id, ""), written=written)
            for row, written in self._watched(rows, prompts, prefixes, self.sampling)
        ]

    def _watched(
        self,
        rows: Sequence[Example],
        prompts: Sequence[Prompt],
        prefixes: Sequence[str],
        sampling: AnswerSampling,
    ) -> list[tuple[Example, WatchedAnswer]]:
        def watch(part: Sequence[int]) -> list[WatchedAnswer]:
            begun = [prefixes[n] for n in part] if prefixes else ()
            return self.watcher.watched([prompts[n] for n in part], sampling, begun)

        if not rows:
            return []
        return [
            (rows[n], written)
            for part, answers in of_fitting(watch, range(len(rows)))
            for n, written in zip(part, answers, strict=True)
        ]


def _left_out(rows: Sequence[Example], asked: Sequence[Asked]) -> dict[str, int]:
    return {TOO_LONG: len(rows) - len(asked)} if len(asked) < len(rows) else {}
