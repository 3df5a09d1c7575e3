"""Requests in the way of an attack: the first decision, and the answer that was begun."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from demur.base.errors import ConfigError
from demur.core.decision import decide_many
from demur.core.example import Example
from demur.core.judging.cached_chat import CachedChat
from demur.core.judging.judge import JudgeInput, judge_rows
from demur.core.midway.monitor import AnswerSampling, Stop, first_stop
from demur.core.policy import Policy
from demur.core.ports import (
    AnswerWatcher,
    Judge,
    Progress,
    Prompt,
    Scorer,
    WatchedAnswer,
    no_progress,
)
from demur.core.rows.attacks import Attack, is_about
from demur.core.rows.rewrites import rewrite_prompt
from demur.stages.attack.attacker import Try, propose
from demur.stages.texts import of_fitting, scores_of

TOO_LONG = "longer than the model can read"
NO_BEGINNING = "the model begins no answer of its own"
NOTHING_PROPOSED = "the attacker proposed nothing that the model can read"


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
    attacker: CachedChat | None  # the model that attacks, for attacks that need one
    judge: Judge  # says whether such an attack has succeeded and may end

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
        if attack.rounds:
            asked = self._attacked(attack.rounds, rows, progress)
            silent = len(rows) - len(asked)
            return asked, {NOTHING_PROPOSED: silent} if silent else {}
        asked = self._decided(rows, [self._prompt(attack, row) for row in rows], progress)
        return asked, _left_out(rows, asked)

    def _prompt(self, attack: Attack, row: Example) -> Prompt:
        if attack.rewrite is None:
            return row.prompt
        return rewrite_prompt(attack.rewrite, row.prompt, self.seed)

    def _attacked(self, rounds: int, rows: Sequence[Example], progress: Progress) -> list[Asked]:
        """The last try of a model that attacks, or the first that succeeded, for each request."""
        if self.attacker is None:
            raise needs_attacker(rounds)
        tried = {row.id: Try(row=row, asked=row.prompt[-1].content, said="") for row in rows}
        found: dict[str, Asked] = {}
        left = list(rows)  # those that have not succeeded
        for turn in range(rounds):
            messages = propose(self.attacker, [tried[row.id] for row in left])
            # A request without a message keeps its last try.
            sent = [(r, m) for r, m in zip(left, messages, strict=True) if m is not None]
            prompts = [(*r.prompt[:-1], replace(r.prompt[-1], content=m)) for r, m in sent]
            asked = self._decided([r for r, _ in sent], prompts, no_progress)
            found |= {one.row.id: one for one in asked}
            for row, message in sent:
                said = found[row.id].text if row.id in found else ""
                tried[row.id] = Try(row=row, asked=message, said=said)
            succeeded = self._succeeded(asked)
            left = [row for row in left if row.id not in succeeded]
            progress((turn + 1) * len(rows) // rounds, len(rows))
        return [found[row.id] for row in rows if row.id in found]

    def _succeeded(self, asked: Sequence[Asked]) -> set[str]:
        """The ids of requests that were answered to the end, about them, by the first judge's
        word.
        """
        whole = [
            one
            for one in asked
            if one.text.strip()
            and one.stop(self.policy) is None
            and is_about(one.judge_input.request, one.text)
        ]
        outcomes = judge_rows(self.judge, [one.judge_input for one in whole])
        return {
            one.row.id
            for one, outcome in zip(whole, outcomes, strict=True)
            if outcome.verdict in ("compliance", "partial")
        }

    def _decided(
        self, rows: Sequence[Example], prompts: Sequence[Prompt], progress: Progress
    ) -> list[Asked]:
        """Requests asked so, under the first decision; those that it answers are written."""
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
        begun = self._watched([row.prompt for row in rows], (), beginning)
        progress(len(rows) // 2, len(rows))
        asked = [rows[n] for n, _ in begun]
        prefixes = [w.answer.text for _, w in begun]
        found = self._written(asked, [row.prompt for row in asked], prefixes)
        progress(len(rows), len(rows))
        return found

    def _written(
        self, rows: Sequence[Example], prompts: Sequence[Prompt], prefixes: Sequence[str]
    ) -> list[Asked]:
        """The answers to these prompts, written to their end."""
        return [
            Asked(row=rows[n], column=0, prefix=prefixes[n] if prefixes else "", written=written)
            for n, written in self._watched(prompts, prefixes, self.sampling)
        ]

    def _watched(
        self, prompts: Sequence[Prompt], prefixes: Sequence[str], sampling: AnswerSampling
    ) -> list[tuple[int, WatchedAnswer]]:
        """The answers to the prompts that the model can read, each with its prompt's index."""

        def watch(part: Sequence[int]) -> list[WatchedAnswer]:
            begun = [prefixes[n] for n in part] if prefixes else ()
            return self.watcher.watched([prompts[n] for n in part], sampling, begun)

        if not prompts:
            return []
        return [
            (n, written)
            for part, answers in of_fitting(watch, range(len(prompts)))
            for n, written in zip(part, answers, strict=True)
        ]


def needs_attacker(rounds: int) -> ConfigError:
    """The error of an attack that needs a model."""
    return ConfigError(
        f"attack attacker-{rounds} needs a model that attacks",
        "name it in the settings: [attacker] with url and model",
    )


def _left_out(rows: Sequence[Example], asked: Sequence[Asked]) -> dict[str, int]:
    return {TOO_LONG: len(rows) - len(asked)} if len(asked) < len(rows) else {}
