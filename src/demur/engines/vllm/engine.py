"""vLLM's offline engine as Scorer, Generator and AnswerWatcher, for the stages score and evaluate.

1. Prompts are encoded here, by the same ChatEncoder as for transformers.
2. Scores are vLLM's raw log-probabilities of the control tokens, read before any processor.
3. Every branch of a prompt continues from the cached prefix of that prompt.
Shapes: N prompts, C control tokens (column 0 = respond).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from transformers import AutoConfig
from vllm import LLM, SamplingParams

from demur.base.arrays import Floats
from demur.base.errors import EngineError
from demur.core.fingerprint import Fingerprint
from demur.core.midway.monitor import AnswerSampling
from demur.core.ports import Answer, Progress, Prompt, WatchedAnswer, no_progress
from demur.engines.chat_encoder import ChatEncoder
from demur.engines.fingerprint import fingerprint
from demur.engines.hf.load import DTYPES, checkpoint_folder, find_preset, preset_encoder, stop_ids
from demur.engines.tokenizer import load_tokenizer
from demur.engines.vllm.served_model import require_unmodified

# Block size of the prefix cache. vLLM's default on the CPU, 128, never matches a short prompt.
BLOCK_TOKENS = 32


@dataclass(kw_only=True, eq=False)
class VllmEngine:
    """A checkpoint in vLLM, loaded on construction. Implements Scorer, Generator and AnswerWatcher.

    On a CPU set VLLM_CPU_KVCACHE_SPACE (GB) before Python starts. Raises EngineError when the
    checkpoint, its tokenizer or its control tokens cannot be used.
    """

    model: str | Path  # a folder, or a Hugging Face name
    tokens: Sequence[str] = ()  # control tokens, respond first
    keep_history: bool = True  # past assistant turns carry their control token, as in training
    preset: str | None = None  # a published token convention, instead of `tokens`
    dtype: str | None = None  # of the weights; None: as stored (vLLM's own default halves float32)
    max_new_tokens: int = 48  # of an answer, after its control token
    # prompts between two calls of `progress`; vLLM makes batches of its own from them
    prompts_at_once: int = 512
    options: Mapping[str, Any] = field(default_factory=dict)  # further arguments of vllm.LLM

    def __post_init__(self) -> None:
        if bool(self.tokens) == bool(self.preset):
            raise EngineError(
                f"control tokens {tuple(self.tokens)} and preset {self.preset!r}: give exactly one",
                "the tokens are in demur.json beside a model that demur trained",
            )
        self.tokenizer = load_tokenizer(self.model)
        if self.preset is None:
            self.encoder = ChatEncoder(self.tokenizer, self.tokens, keep_history=self.keep_history)
        else:
            self.encoder = preset_encoder(
                self.tokenizer, find_preset(self.preset), keep_history=self.keep_history
            )
        config: Any = AutoConfig.from_pretrained(
            str(self.model), local_files_only=Path(self.model).is_dir(), trust_remote_code=False
        )
        # the dtype of the stored weights, which older checkpoints leave out: float32 then
        stored = str(getattr(config, "dtype", None) or "float32").removeprefix("torch.")
        self._dtype = self.dtype or stored
        if self._dtype not in DTYPES:
            raise EngineError(f"unknown dtype {self._dtype!r}", f"known: {', '.join(DTYPES)}")
        defaults = {
            "enable_prefix_caching": True,
            "block_size": BLOCK_TOKENS,
            "disable_log_stats": True,
        }
        defaults["trust_remote_code"] = False
        self._llm: Any = LLM(
            model=str(self.model),
            dtype=self._dtype,
            generation_config="vllm",  # no sampling default of a checkpoint may creep in
            **{**defaults, **self.options},
        )
        require_unmodified(self._llm.llm_engine.vllm_config)
        served = self._llm.llm_engine.model_config
        self._context = int(served.max_model_len)
        # stop_ids reads a transformers model; vLLM's own configuration stands in for one here
        generation = SimpleNamespace(**{"eos_token_id": None, **served.try_get_generation_config()})
        self._stops = stop_ids(
            SimpleNamespace(config=served.hf_config, generation_config=generation),
            self.tokenizer,
            self.encoder,
        )

    @cached_property
    def fingerprint(self) -> Fingerprint:
        """Digests of weights, tokenizer and template, equal to HfEngine's.

        Reads every weight file once.
        """
        return fingerprint(checkpoint_folder(self.model), self.tokenizer, self.encoder, self._dtype)

    def logp(self, prompts: Sequence[Prompt], progress: Progress = no_progress) -> Floats:
        """Scores, (N, C), float32, natural log, from one prefill per different prompt.

        Raises EngineError naming the first prompt that is longer than the model's context.
        """
        encoded = self._encode(prompts)
        # ids of a prompt -> how often it stands among the prompts: each is scored once
        copies = Counter(encoded)
        ids = list(self.encoder.token_ids)
        params = SamplingParams(
            max_tokens=1, temperature=0.0, logprob_token_ids=ids, detokenize=False
        )
        scored: dict[tuple[int, ...], list[float]] = {}
        done = 0
        for part in _parts(list(copies), self.prompts_at_once):
            for prompt, output in zip(
                part, self._generate(part, [params] * len(part)), strict=True
            ):
                scored[prompt] = [output.logprobs[0][i].logprob for i in ids]
            done += sum(copies[prompt] for prompt in part)
            progress(done, len(prompts))
        # Rounding may lift a log-probability above 0, which no score may be.
        shape = (len(prompts), len(ids))
        return np.minimum(
            np.array([scored[p] for p in encoded], dtype=np.float32).reshape(shape), np.float32(0.0)
        )

    def branches(
        self,
        prompts: Sequence[Prompt],
        columns: Sequence[Sequence[int]],
        progress: Progress = no_progress,
    ) -> list[dict[int, Answer]]:
        """For each prompt the greedy answer after each asked control token, by score column.

        Raises EngineError naming the first prompt that leaves no room for its control token.
        """
        encoded = self._encode(prompts)
        answers: list[dict[int, Answer]] = [{} for _ in prompts]
        done = 0
        for part in _parts(range(len(prompts)), self.prompts_at_once):
            # (prompt, column) pairs, each once; all branches of a prompt are in one call of vLLM,
            # so that they share its prefix
            asked = [(n, c) for n in part for c in dict.fromkeys(columns[n])]
            for (n, column), answer in zip(asked, self._answers(encoded, asked), strict=True):
                answers[n][column] = answer
            done += len(part)
            progress(done, len(prompts))
        return answers

    def watched(
        self,
        prompts: Sequence[Prompt],
        sampling: AnswerSampling,
        prefixes: Sequence[str] = (),
        progress: Progress = no_progress,
    ) -> list[WatchedAnswer]:
        """One answer per prompt after [respond] and its prefix, with the score of each position.

        Sampled answers are drawn by vLLM's own seed: the same again in a fresh engine. Raises
        EngineError naming the first prompt that leaves no room for its answer.
        """
        begun = zip(prompts, prefixes or [""] * len(prompts), strict=True)
        starts = [tuple(self.encoder.begun_answer(p, 0, text)) for p, text in begun]
        self._require_room(starts, room=1)
        ids_C = list(self.encoder.token_ids)
        made: list[WatchedAnswer] = []
        for part in _parts(range(len(starts)), self.prompts_at_once):
            limits = [min(sampling.most_tokens, self._context - len(starts[n])) for n in part]
            params = [
                SamplingParams(
                    **self._writing_fields(limit),
                    temperature=sampling.temperature,
                    top_p=sampling.top_p,
                    logprob_token_ids=ids_C,
                )
                for limit in limits
            ]
            for output in self._generate([starts[n] for n in part], params):
                answer = self._answer(output)
                rows = [[at[i].logprob for i in ids_C] for at in output.logprobs[: answer.tokens]]
                logp_TC = np.array(rows, dtype=np.float32).reshape(len(rows), len(ids_C))
                made.append(WatchedAnswer(answer=answer, logp_TC=np.minimum(logp_TC, 0.0)))
            progress(len(made), len(prompts))
        return made

    def _answers(
        self, encoded: Sequence[tuple[int, ...]], asked: Sequence[tuple[int, int]]
    ) -> list[Answer]:
        """The answers after (prompt, column) pairs, in their order."""
        starts = [(*encoded[n], self.encoder.token_ids[column]) for n, column in asked]
        limits = [min(self.max_new_tokens, self._context - len(start)) for start in starts]
        # places in `asked` whose prompt leaves room for an answer; the others stay empty
        fitting = [at for at, limit in enumerate(limits) if limit > 0]
        answers = [Answer(text="", finished=False, tokens=0)] * len(asked)
        outputs = self._generate(
            [starts[at] for at in fitting],
            [SamplingParams(**self._writing_fields(limits[at]), temperature=0.0) for at in fitting],
        )
        for at, output in zip(fitting, outputs, strict=True):
            answers[at] = self._answer(output)
        return answers

    def _answer(self, output: Any) -> Answer:
        """The answer in vLLM's completion of a start."""
        finished = output.token_ids[-1] in self._stops
        # a bool counts as 1: without the stop token
        ids = list(output.token_ids[: len(output.token_ids) - finished])
        (text,) = self.tokenizer.batch_decode([ids], skip_special_tokens=True)
        return Answer(text=text.strip(), finished=finished, tokens=len(ids))

    def _writing_fields(self, limit: int) -> dict[str, Any]:
        """Sampling parameters of an answer: our stop tokens only, no control tokens.

        The same in every engine. limit: tokens.
        """
        # A padding token may be the stop token too, and then stays allowed.
        pad_id = self.tokenizer.pad_token_id
        banned = {*self.encoder.token_ids, *([] if pad_id is None else [pad_id])} - self._stops
        return {
            "max_tokens": limit,
            "ignore_eos": True,
            "stop_token_ids": sorted(self._stops),
            "logit_bias": dict.fromkeys(banned, -np.inf),
            "detokenize": False,
        }

    def _generate(self, prompts: Sequence[tuple[int, ...]], params: Sequence[Any]) -> list[Any]:
        """vLLM's one completion of each prompt, in order."""
        requests = [{"prompt_token_ids": list(ids)} for ids in prompts]
        if not requests:
            return []
        return [
            output.outputs[0]
            for output in self._llm.generate(requests, list(params), use_tqdm=False)
        ]

    def _encode(self, prompts: Sequence[Prompt]) -> list[tuple[int, ...]]:
        """Token ids of each prompt up to the place of its control token.

        Raises EngineError naming the first prompt that leaves no room for that token.
        """
        encoded = [tuple(self.encoder.prompt(p)) for p in prompts]
        self._require_room(encoded, room=1)
        return encoded

    def _require_room(self, encoded: Sequence[Sequence[int]], *, room: int) -> None:
        """Raise EngineError naming the first prompt that leaves no room for as many tokens."""
        for n, ids in enumerate(encoded):
            if len(ids) + room > self._context:
                raise EngineError(
                    f"prompt {n} has {len(ids)} tokens and needs {room} more; the model reads "
                    f"{self._context}",
                    "shorten it or leave it out",
                )


def _parts(items: Sequence[Any], size: int) -> list[Sequence[Any]]:
    return [items[at : at + size] for at in range(0, len(items), size)]
