"""Any causal language model of transformers as Scorer, Generator and AnswerWatcher: every prompt is
read once.

1. Scoring pads on the right and needs no attention mask, since under causal attention no token sees
   what follows it. A self-check on first use falls back to rows of equal length where that fails.
2. Prompts of a batch that begin alike, with a system prompt for instance, share one prefill of that
   beginning; a self-check on first use turns this off where it changes scores.
3. Writing pads on the left, with a mask and explicit positions, so that all rows of a batch go on
   from the same column of the cache.

Shapes: N prompts, B rows of a batch, T positions, V vocabulary, C control tokens (column 0 =
respond).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from demur.base.arrays import Floats, occurrences
from demur.base.errors import EngineError, PromptTooLong
from demur.core.conversation.languages import operators_text
from demur.core.decision import Decision, decide_or_doubt
from demur.core.example import Message
from demur.core.fingerprint import Fingerprint
from demur.core.midway.monitor import AnswerSampling, Stop
from demur.core.policy import Policy
from demur.core.ports import Answer, Progress, Prompt, WatchedAnswer, no_progress
from demur.engines.chat_encoder import ChatEncoder
from demur.engines.fingerprint import fingerprint
from demur.engines.heads import control_scores, head_on, last_rows
from demur.engines.hf.decode import (
    AnswerRow,
    Prefix,
    decode,
    prefill,
    single_position,
)
from demur.engines.hf.load import (
    checkpoint_folder,
    find_preset,
    load_model,
    preset_encoder,
)
from demur.engines.hf.rules import DecodeRules, decode_rules
from demur.engines.hf.running_batch import rounding
from demur.engines.hf.watch import StopWatch, Trace, drawn
from demur.engines.tokenizer import load_tokenizer

LOGITS_PER_BATCH = 2**23  # at most so many float32 logits at once: 32 MB, whatever the vocabulary
# Tokens that reading a shared beginning once must save, to be worth a forward pass of its own.
SHARED_TOKENS = 128


@dataclass(kw_only=True, eq=False)
class HfEngine:
    """A checkpoint in evaluation mode, loaded on construction. Implements Scorer, Generator and
    AnswerWatcher.

    `network`, `tokenizer`, `encoder`, `rules` (of writing) and `filler` (an id for padding) are for
    reading only.

    Raises EngineError when the checkpoint, its tokenizer or its control tokens cannot be used.
    """

    model: str | Path  # a folder, or a Hugging Face name
    tokens: Sequence[str] = ()  # control tokens, respond first
    keep_history: bool = True  # past assistant turns carry their control token, as in training
    preset: str | None = None  # a published token convention, instead of `tokens`
    dtype: str | None = None  # of the weights; None: as stored
    device: str | None = None  # None: the first GPU if there is one
    batch_tokens: int = 2048  # positions scored at once, padding counted
    # positions cached at once while answers are written, those of the answers counted
    write_tokens: int = 4096
    max_new_tokens: int = 48  # of an answer, after its control token
    threads: int | None = None  # CPU threads of this whole process; None: leave them

    def __post_init__(self) -> None:
        if bool(self.tokens) == bool(self.preset):
            raise EngineError(
                f"control tokens {tuple(self.tokens)} and preset {self.preset!r}: give exactly one",
                "the tokens are in demur.json beside a model that demur trained",
            )
        if self.threads is not None:
            torch.set_num_threads(self.threads)
        self.tokenizer = load_tokenizer(self.model)
        if self.preset is None:
            self.encoder = ChatEncoder(self.tokenizer, self.tokens, keep_history=self.keep_history)
        else:
            self.encoder = preset_encoder(
                self.tokenizer, find_preset(self.preset), keep_history=self.keep_history
            )
        self.network: Any = load_model(self.model, self.dtype, self.device)
        # No token attends to padding; with a real pad id transformers would warn.
        self.filler = self.encoder.token_ids[0]
        self.rules = decode_rules(self.network, self.tokenizer, self.encoder, self.max_new_tokens)

    @cached_property
    def fingerprint(self) -> Fingerprint:
        """Fingerprint of the checkpoint; reads every weight file once."""
        dtype = str(self.network.dtype).removeprefix("torch.")
        return fingerprint(checkpoint_folder(self.model), self.tokenizer, self.encoder, dtype)

    @torch.inference_mode()
    def logp(self, prompts: Sequence[Prompt], progress: Progress = no_progress) -> Floats:
        """Score prompts: (N, C) natural-log probabilities, float32.

        Raises PromptTooLong naming the first prompt that is longer than the model's context.
        """
        encoded = self._encode(prompts, room=0)
        # Each different prompt is read once, however often it occurs.
        copies = Counter(encoded)
        unique = list(copies)
        logp_NC = np.empty((len(unique), len(self.encoder.tokens)), dtype=np.float32)
        lengths = [len(ids) for ids in unique]
        done = 0
        for batch in self._score_batches(lengths):
            rows = [unique[n] for n in batch]
            shared = shared_start(rows)
            if shared * (len(rows) - 1) >= SHARED_TOKENS and self.sharing_is_harmless:
                cache = self._read_start(rows[0][:shared], len(rows))
                logp_NC[batch] = self._score(rows, cache, shared)
            else:
                logp_NC[batch] = self._score(rows)
            done += sum(copies[unique[n]] for n in batch)
            progress(done, len(prompts))
        at = {ids: n for n, ids in enumerate(unique)}
        return logp_NC[np.array([at[ids] for ids in encoded], dtype=np.int64)]

    @torch.inference_mode()
    def branches(
        self,
        prompts: Sequence[Prompt],
        columns: Sequence[Sequence[int]],
        progress: Progress = no_progress,
    ) -> list[dict[int, Answer]]:
        """For each prompt the greedy answer after each of its columns (control tokens), from one
        prefill.

        Raises PromptTooLong naming the first prompt that leaves no room for its control token.
        """
        encoded = self._encode(prompts, room=1)
        answers: list[dict[int, Answer]] = [{} for _ in prompts]
        asked = [n for n, c in enumerate(columns) if c]
        done = len(prompts) - len(asked)
        # A prompt takes a row of the cache for each of its control tokens.
        costs = [(len(encoded[n]) + self.max_new_tokens) * len(columns[n]) for n in asked]
        for batch in self._batches(costs, self.write_tokens):
            prompt_ns = [asked[b] for b in batch]
            # (row of the batch, column) of every answer; a column that is named twice counts once
            rows = [(row, c) for row, n in enumerate(prompt_ns) for c in dict.fromkeys(columns[n])]
            prefix = prefill(self.network, [encoded[n] for n in prompt_ns], self.filler)
            answer_rows = [self._row(row, column) for row, column in rows]
            written = self._write(prefix, answer_rows, self.rules)
            for (row, column), answer in zip(rows, written, strict=True):
                answers[prompt_ns[row]][column] = answer
            done += len(batch)
            progress(done, len(prompts))
        return answers

    @torch.inference_mode()
    def answer(
        self, prompts: Sequence[Prompt], policy: Policy, progress: Progress = no_progress
    ) -> list[tuple[Floats, Decision, Answer]]:
        """Each prompt's score (C,), the policy's decision and the answer, from one prefill.

        Under a policy with a monitor answers are written as those that it was calibrated on, by the
        seeds of `watched`, and no longer than this engine's own. Raises PolicyError if the policy
        was made with another model, ScoreDoubt on a doubtful score where the policy's rule is
        "error", ScoreError on a position without a score, PromptTooLong as in `branches`.
        """
        policy.require_model(self.fingerprint)
        encoded = self._encode(prompts, room=1)
        draws = occurrences(encoded)
        answered: dict[int, tuple[Floats, Decision, Answer]] = {}
        for batch in self._batches(
            [len(ids) + self.max_new_tokens for ids in encoded], self.write_tokens
        ):
            prefix = prefill(self.network, [encoded[n] for n in batch], self.filler)
            logp_BC = control_scores(prefix.logits_BV, self.encoder.token_ids)
            decisions = [decide_or_doubt(policy, logp_C) for logp_C in logp_BC]
            read = [(encoded[n], draws[n]) for n in batch]
            answers = self._decided(policy, prefix, read, decisions)
            answered |= dict(zip(batch, zip(logp_BC, decisions, answers, strict=True), strict=True))
            progress(len(answered), len(prompts))
        return [answered[n] for n in range(len(prompts))]

    def _decided(
        self,
        policy: Policy,
        prefix: Prefix,
        prompts: Sequence[tuple[Sequence[int], int]],
        decisions: Sequence[Decision],
    ) -> list[Answer]:
        """Write the answers of a batch of decided prompts, each until its monitor stops it.

        prompts: the ids of each, and how many like it stand before it. Nothing is written for a
        deferral, whose text is the policy's.
        """
        rows = {b: self._row(b, d.column) for b, d in enumerate(decisions) if d.outcome != "defer"}
        monitor, rules = policy.monitor, self.rules
        watches = {b: StopWatch(monitor) for b in rows} if monitor is not None else {}
        if monitor is not None:
            most = min(self.rules.max_new_tokens, monitor.answers.most_tokens)
            rules = replace(self.rules, max_new_tokens=most)
        for b, watch in watches.items():
            assert monitor is not None  # there are watches
            ids, draw = prompts[b]
            rows[b] = drawn(rows[b], monitor.answers, [*ids, rows[b].first_id], draw)
            # A refusal is not watched.
            rows[b].watch = None if decisions[b].refuses else watch.push
            rows[b].ends_with = frozenset(
                column
                for column in range(1, len(policy.taxonomy.tokens))
                if not policy.writes(column)
            )
        written = self._write(prefix, list(rows.values()), rules) if rows else []
        answers = {b: _deferred(policy, d) for b, d in enumerate(decisions)}
        answers |= dict(zip(rows, written, strict=True))
        for b, watch in watches.items():
            if watch.stop is not None:
                answers[b] = stopped_answer(policy, answers[b], watch.stop)
        return list(answers.values())

    @torch.inference_mode()
    def watched(
        self,
        prompts: Sequence[Prompt],
        sampling: AnswerSampling,
        prefixes: Sequence[str] = (),
        progress: Progress = no_progress,
    ) -> list[WatchedAnswer]:
        """One answer per prompt after [respond] and its prefix, with the score of each position.

        A sampled answer is drawn by a seed of its own prompt and prefix, and of how many like it
        stand before it. Raises PromptTooLong as in `branches`.
        """
        begun = zip(prompts, prefixes or [""] * len(prompts), strict=True)
        encoded = [tuple(self.encoder.begun_answer(p, 0, text)) for p, text in begun]
        self._require_room(encoded, room=0)
        rules = replace(self.rules, max_new_tokens=sampling.most_tokens)
        draws = occurrences(encoded)
        made: dict[int, WatchedAnswer] = {}
        for batch in self._batches(
            [len(ids) + sampling.most_tokens for ids in encoded], self.write_tokens
        ):
            # The last id is read in the first step of decoding, like a forced control token.
            prefix = prefill(self.network, [encoded[n][:-1] for n in batch], self.filler)
            rows, traces = [], [Trace() for _ in batch]
            for b, n in enumerate(batch):
                row = AnswerRow(prompt=b, first_id=encoded[n][-1], watch=traces[b].push)
                rows.append(drawn(row, sampling, encoded[n], draws[n]))
            for b, answer in enumerate(self._write(prefix, rows, rules)):
                logp_TC = traces[b].logp_TC(len(self.encoder.tokens))
                made[batch[b]] = WatchedAnswer(answer=answer, logp_TC=logp_TC)
            progress(len(made), len(prompts))
        return [made[n] for n in range(len(prompts))]

    @cached_property
    def padding_is_harmless(self) -> bool:
        """Whether a row padded on the right, without a mask, scores as it does alone.

        True under causal attention; tried out once on two prompts.
        """
        (short,) = self._encode([(Message(role="user", content="Hello."),)], room=0)
        # Beside a longer row, the short one has most of the padding.
        longer = (short * 8)[: self.rules.context]
        return self._alike(self._score([short]), self._score([short, longer])[:1])

    def _encode(self, prompts: Sequence[Prompt], *, room: int) -> list[tuple[int, ...]]:
        """Ids of each prompt up to where its control token belongs.

        room: positions of the context that must be left after them. Raises PromptTooLong naming
        the first prompt that is too long.
        """
        encoded = [tuple(self.encoder.prompt(p)) for p in prompts]
        self._require_room(encoded, room=room)
        return encoded

    def _require_room(self, encoded: Sequence[Sequence[int]], *, room: int) -> None:
        context = self.rules.context
        for n, ids in enumerate(encoded):
            if context is not None and len(ids) + room > context:
                raise PromptTooLong(
                    f"prompt {n} has {len(ids)} tokens and needs {room} more; the model reads "
                    f"{context}",
                    "shorten it or leave it out",
                )

    def _score_batches(self, lengths: Sequence[int]) -> list[list[int]]:
        """Indices of prompts to score together; of equal length if padding changes scores."""
        equal = len(set(lengths)) > 1 and not self.padding_is_harmless
        return self._batches(lengths, self.batch_tokens, equal_lengths=equal)

    def _batches(
        self, costs: Sequence[int], budget: int, *, equal_lengths: bool = False
    ) -> list[list[int]]:
        """Indices of rows in batches of like cost, rows x dearest row <= budget.

        costs: positions that a row takes. The dearest batch comes first: if memory does not
        suffice, that shows at once.
        """
        most_rows = max(1, LOGITS_PER_BATCH // self.network.get_output_embeddings().weight.shape[0])
        batches: list[list[int]] = []
        for n in sorted(range(len(costs)), key=lambda n: -costs[n]):
            # The first row of a batch is its dearest, and every row is padded to it.
            widest = costs[batches[-1][0]] if batches else 0
            fits = (
                batches
                and len(batches[-1]) < most_rows
                and (len(batches[-1]) + 1) * widest <= budget
            )
            if fits and not (equal_lengths and costs[n] != widest):
                batches[-1].append(n)
            else:
                batches.append([n])
        return batches

    @cached_property
    def sharing_is_harmless(self) -> bool:
        """Whether a row scores as it does alone when its beginning is read once for several rows.

        True of causal decoders with a key-value cache; tried out once on two prompts.
        """
        # Two prompts that differ in one message share what the template writes before it.
        (one,), (other,) = (
            self._encode([(Message(role="user", content=c),)], room=0) for c in ("Hello.", "No!")
        )
        shared = shared_start([one, other])
        cache = self._read_start(one[:shared], rows=2) if shared else None
        if cache is None:
            return False
        return self._alike(self._score([one]), self._score([one, other], cache, shared)[:1])

    def _alike(self, alone_BC: Floats, together_BC: Floats) -> bool:
        """Whether rounding explains the difference between scores of the same row."""
        allowed = rounding(self.network.dtype, float(np.abs(alone_BC).max()))
        return bool(np.abs(alone_BC - together_BC).max() <= allowed)

    @torch.inference_mode()
    def _read_start(self, ids: Sequence[int], rows: int) -> Any:
        """Read ids and copy their key-value cache for `rows` rows; None without such a cache."""
        with head_on(self.network, lambda hidden_BTd: hidden_BTd[:, -1:]):
            read = self.network(
                torch.tensor([list(ids)], device=self.network.device), use_cache=True
            )
        cache: Any = getattr(read, "past_key_values", None)
        if not hasattr(cache, "batch_repeat_interleave"):
            return None
        cache.batch_repeat_interleave(rows)
        return cache

    @torch.inference_mode()
    def _score(self, rows: Sequence[Sequence[int]], cache: Any = None, start: int = 0) -> Floats:
        """Scores of rows of ids, (B, C): right padding, no mask, logits of each row's last token.

        cache: of the first `start` ids, which all rows share; it is used up.
        """
        lengths_B = torch.tensor([len(ids) - start for ids in rows])
        longest = int(lengths_B.max())
        ids_BT = torch.tensor(
            [[*ids[start:], *[self.filler] * (longest - len(ids) + start)] for ids in rows]
        )
        # Not every architecture takes `past_key_values`; such a one has no cache to pass.
        kept = (
            {"use_cache": False} if cache is None else {"use_cache": True, "past_key_values": cache}
        )
        with head_on(self.network, last_rows(lengths_B)):
            logits_BTV = self.network(ids_BT.to(self.network.device), **kept).logits
        return control_scores(single_position(logits_BTV), self.encoder.token_ids)

    def _row(self, prompt: int, column: int) -> AnswerRow:
        """A greedy answer to a prompt of the batch after a control token."""
        return AnswerRow(prompt=prompt, first_id=self.encoder.token_ids[column])

    def _write(self, prefix: Prefix, rows: Sequence[AnswerRow], rules: DecodeRules) -> list[Answer]:
        """Write the answers of rows, in their order."""
        decode(self.network, prefix, rows, rules)
        texts = self.tokenizer.batch_decode([row.ids for row in rows], skip_special_tokens=True)
        return [
            Answer(text=text.strip(), finished=row.finished, tokens=len(row.ids))
            for text, row in zip(texts, rows, strict=True)
        ]


def stopped_answer(policy: Policy, answer: Answer, stop: Stop) -> Answer:
    """What stands for an answer that was stopped: the operator's text, or the model's refusal."""
    text = policy.own_text(stop.column)
    if text is not None:
        return Answer(text=text, finished=True, tokens=0, stop=stop)
    return replace(answer, stop=stop)


def _deferred(policy: Policy, decision: Decision) -> Answer:
    """The policy's text of a deferral, as an answer for which nothing was generated."""
    return Answer(text=operators_text(policy, decision) or "", finished=True, tokens=0)


def shared_start(rows: Sequence[Sequence[int]]) -> int:
    """Number of ids that all rows begin with, at least one id of each row left over.

    The rest of a row must not be empty, since the score is that of its last token.
    """
    # Of sorted rows, all lie between the first and the last, and so begin as these two both do.
    first, last = min(map(tuple, rows)), max(map(tuple, rows))
    alike = next(
        (n for n, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first)
    )
    return min(alike, min(map(len, rows)) - 1)
