"""Examination of a base model: findings on what training would do with it. Loads no weights.

1. Origin, sizes, and the rows of the vocabulary that the control tokens get.
2. Whether the output head is tied, and stays so.
3. The chat template: position of the control token, default system prompt, thoughts.
4. The layers that learn; memory, disk and time for the expected rows.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, PreTrainedTokenizerFast

from demur.base.errors import DemurError, EngineError
from demur.core.example import Message
from demur.core.taxonomy import Taxonomy
from demur.core.training.readiness import Finding, Readiness
from demur.core.training.settings import TrainSettings
from demur.engines.chat_encoder import ChatEncoder
from demur.engines.thought_position import require_same_position, with_thought
from demur.engines.tokenizer import add_control_tokens, load_tokenizer
from demur.engines.training.base_model.find import PACKAGED, Base, check_base, find_base, origin_of
from demur.engines.training.resources.available import free_disk, free_memory
from demur.engines.training.resources.machine import uses_bfloat16
from demur.engines.training.resources.memory import (
    GB,
    BatchSizes,
    ModelSizes,
    PlannedTraining,
    cheaper_setting,
    disk_needed,
    frozen_layer_count,
    learnt_parameters,
    memory_needed,
    model_sizes,
)

_QUESTION = (Message(role="user", content="What is the capital of Portugal?"),)
# Tokens of a typical prompt with the beginning of its answer, without those of the template.
ROW_TOKENS = 40
# Time of a step relative to its matrix products alone, as measured: norms, attention, optimizer.
SLOWER = 2.0


@dataclass(frozen=True, kw_only=True, slots=True)
class BaseCase:
    """A base model to examine, and the training intended for it."""

    base: str
    taxonomy: Taxonomy
    settings: TrainSettings
    rows: int  # expected number of training rows


@dataclass(frozen=True, kw_only=True, slots=True)
class _Loaded:
    """A base model without its weights."""

    found: Base
    plain: PreTrainedTokenizerFast  # without control tokens
    tokenizer: Any  # with them
    encoder: ChatEncoder
    reused: dict[str, str]  # control token -> the reserved token whose row it takes
    sizes: ModelSizes
    config: Any


def is_base(model: str, tokens: tuple[str, ...]) -> bool:
    """Whether a model is a base model: its tokenizer has no control token, or cannot be read."""
    if model in PACKAGED or Path(model).suffix == ".gguf":
        return True
    try:
        return not set(tokens) & set(load_tokenizer(model, "turns").get_vocab())
    except EngineError:
        return True


def examine_base(case: BaseCase) -> Readiness:
    """Examine a base model; problems become failed findings, never exceptions."""
    try:
        with tempfile.TemporaryDirectory() as scratch:
            loaded = _load(case, Path(scratch))
    except DemurError as e:
        failed = Finding(check="base", ok=False, detail=e.message, hint=e.hint)
        return Readiness(model=case.base, findings=(failed,))
    return Readiness(model=case.base, findings=tuple(_findings(case, loaded)))


def _load(case: BaseCase, scratch: Path) -> _Loaded:
    """Load tokenizer and configuration as training would. scratch: an empty folder."""
    check_base(case.base, case.settings.chat_template)
    found = find_base(case.base, template=case.settings.chat_template)
    plain = load_tokenizer(found.name, case.settings.chat_template)
    plain.chat_template = with_thought(str(plain.chat_template), case.settings.thought)
    tokenizer, reused = add_control_tokens(plain, case.taxonomy, scratch)
    encoder = ChatEncoder(tokenizer, case.taxonomy.tokens, keep_history=case.settings.keep_history)
    here = Path(found.name).is_dir()
    config = AutoConfig.from_pretrained(found.name, local_files_only=here, trust_remote_code=False)
    return _Loaded(
        found=found,
        plain=plain,
        tokenizer=tokenizer,
        encoder=encoder,
        reused=reused,
        sizes=model_sizes(config),
        config=config,
    )


def _findings(case: BaseCase, loaded: _Loaded) -> Iterator[Finding]:
    if Path(loaded.found.name).is_dir():  # weights of a Hub name may not be downloaded yet
        yield Finding(check="base", ok=True, detail=origin_of(loaded.found).text)
    yield _shape(loaded)
    yield _rows(loaded)
    yield _head(case, loaded)
    yield _answer(loaded)
    yield _default_prompt(case, loaded)
    yield _thought(loaded)
    yield _layers(case, loaded)
    half = uses_bfloat16(case.settings)
    reckoned = PlannedTraining(
        sizes=loaded.sizes, settings=case.settings, batches=_typical(case, loaded), half=half
    )
    yield _memory(reckoned)
    yield _disk(reckoned)
    yield _time(reckoned, case.rows)


def _shape(loaded: _Loaded) -> Finding:
    """Report architecture, parameters, layers and context length."""
    s, text = loaded.sizes, loaded.config.get_text_config(decoder=True)
    detail = (
        f"{type(loaded.config).__name__.removesuffix('Config')}, {s.all / 1e6:,.1f} million "
        f"parameters, {s.layers} layers of width {s.width}, context "
        f"{getattr(text, 'max_position_embeddings', None) or 'without limit'}"
    )
    return Finding(check="shape", ok=True, detail=detail)


def _rows(loaded: _Loaded) -> Finding:
    """Report the rows of the embedding that the control tokens get."""
    before, after, rows = len(loaded.plain), len(loaded.tokenizer), loaded.sizes.vocabulary
    tokens = loaded.encoder.tokens
    old = [t for t in tokens if t in loaded.plain.get_vocab()]
    if loaded.reused:
        first, taken = next(iter(loaded.reused.items()))
        detail = (
            f"{len(loaded.reused)} of {len(tokens)} take over reserved rows: {first} that of "
            f"{taken}, and so on"
        )
    elif len(old) == len(tokens):
        detail = f"all {len(tokens)} are in its vocabulary"
    elif after <= rows:  # many models have more rows than tokens, rounded up for the hardware
        detail = (
            f"{after - before} of {len(tokens)} use spare rows: {before:,} tokens, {rows:,} "
            "rows in the model"
        )
    else:
        detail = (
            f"{after - before} of {len(tokens)} are added: the model grows from {rows:,} to "
            f"{after:,} rows"
        )
    return Finding(check="rows of the control tokens", ok=True, detail=detail)


def _head(case: BaseCase, loaded: _Loaded) -> Finding:
    """Report whether the output head is tied to the embedding."""
    if not loaded.sizes.tied:
        detail = "not tied to the embedding: the control tokens' rows learn in both"
    elif case.settings.frozen_share:
        detail = (
            "tied to the embedding; frozen layers need it as it is, so the head becomes one "
            "of its own"
        )
    else:
        detail = "tied to the embedding, and stays so"
    return Finding(check="head", ok=True, detail=detail)


def _answer(loaded: _Loaded) -> Finding:
    """Report the text before the control token; failed if training and service differ in it."""
    ids = loaded.encoder.prompt(_QUESTION)
    opens = [n for n, token_id in enumerate(ids) if token_id in loaded.tokenizer.all_special_ids]
    # from the last special token on: the header of the answer
    tail = loaded.tokenizer.decode(ids[opens[-1] if opens else -4 :])
    try:
        require_same_position(loaded.tokenizer, loaded.encoder)
    except EngineError as e:
        return Finding(check="where the answer starts", ok=False, detail=e.message, hint=e.hint)
    return Finding(
        check="where the answer starts",
        ok=True,
        detail=f"behind {tail!r}, at position {len(ids)} of a short question",
    )


def _default_prompt(case: BaseCase, loaded: _Loaded) -> Finding:
    """Report the tokens of the system prompt that the template writes by itself."""
    try:
        bare = load_tokenizer(loaded.found.name, "bare")
    except EngineError:  # the model has no template; the caller's is used
        return Finding(
            check="default system prompt", ok=True, detail="the template is the caller's"
        )
    own = load_tokenizer(loaded.found.name)
    asked = [{"role": m.role, "content": m.content} for m in _QUESTION]
    # tokens of a short question with the template's own prompt and without
    lengths = [
        len(
            t.apply_chat_template(
                asked, add_generation_prompt=True, return_dict=False, enable_thinking=False
            )
        )
        for t in (own, bare)
    ]
    cost = lengths[0] - lengths[1]
    if not cost:
        return Finding(
            check="default system prompt", ok=True, detail="none, or one that cannot be taken away"
        )
    kept = case.settings.chat_template in (None, "own")
    what = (
        'stays: train.chat_template = "bare" takes it away'
        if kept
        else "is taken away in training and in service"
    )
    return Finding(
        check="default system prompt",
        ok=True,
        detail=f"{cost} of the {lengths[0]} tokens of a short question; it {what}",
    )


def _thought(loaded: _Loaded) -> Finding:
    """Report whether the template opens a thought."""
    reasons = "<think>" in str(loaded.plain.chat_template)
    detail = (
        "its template opens a thought: see train.thought" if reasons else "its template knows none"
    )
    return Finding(check="thoughts", ok=True, detail=detail)


def _layers(case: BaseCase, loaded: _Loaded) -> Finding:
    """Report the layers that learn; failed if frozen_share freezes none or all."""
    s, frozen, learnt = (
        loaded.sizes,
        frozen_layer_count(loaded.sizes, case.settings),
        learnt_parameters(loaded.sizes, case.settings),
    )
    if case.settings.frozen_share and not 0 < frozen < s.layers:
        hint = "leave one to freeze and one to learn, or set train.frozen_share = 0"
        return Finding(
            check="layers",
            ok=False,
            detail=f"{frozen} of {s.layers} layers would be frozen",
            hint=hint,
        )
    if case.settings.lora_rank:
        what = f"adapters of rank {case.settings.lora_rank} on all {s.layers} layers"
    elif frozen:
        what = f"layers 1 to {frozen} read every row once, {frozen + 1} to {s.layers} learn"
    else:
        what = f"all {s.layers} learn"
    return Finding(
        check="layers", ok=True, detail=f"{what}: {learnt / 1e6:,.1f} million parameters"
    )


def _typical(case: BaseCase, loaded: _Loaded) -> BatchSizes:
    """Batches of rows of a typical length, since the rows are not known yet."""
    # tokens that the template writes around a message
    added = len(loaded.encoder.prompt((Message(role="user", content=""),)))
    length = ROW_TOKENS + added
    s = case.settings
    positions = s.batch_tokens or s.rows_per_device * length
    supervised = positions // length * min(s.answer_tokens + 1, ROW_TOKENS // 2)
    per_step = positions if s.batch_tokens else positions * s.accumulate
    # rounded up: a last batch counts whole
    steps = -(-case.rows * length // per_step)
    return BatchSizes(
        tokens=case.rows * length,
        # assumed: rows of eight times the typical length
        longest=min(s.max_length, 8 * length, positions),
        positions=positions,
        supervised=supervised,
        steps=max(1, round(steps * s.epochs)),
    )


def _memory(case: PlannedTraining) -> Finding:
    """Estimate memory; failed, with a remedy, if it does not suffice."""
    need, free = memory_needed(case), free_memory()
    fits = free is None or need.total <= free
    known = "" if free is None else f"; {free / GB:.2g} GB are free"
    hint = "" if fits else cheaper_setting(case, free or 0.0)
    return Finding(check="memory", ok=fits, detail=f"about {need.text}{known}", hint=hint)


def _disk(case: PlannedTraining) -> Finding:
    """Estimate disk; failed if it does not suffice."""
    parts, free = disk_needed(case), free_disk(Path.cwd())
    fits = sum(parts.values()) <= free
    named = ", ".join(f"{name} {size / GB:.2g}" for name, size in parts.items() if size)
    detail = f"about {sum(parts.values()) / GB:.2g} GB ({named}); {free / GB:.2g} GB are free here"
    return Finding(
        check="disk", ok=fits, detail=detail, hint="" if fits else "put the run on a larger disk"
    )


def _time(case: PlannedTraining, rows: int) -> Finding:
    """Estimate time by the speed of this machine's matrix products.

    A forward pass takes 2 operations a weight and token, a backward pass 4.
    """
    share = frozen_layer_count(case.sizes, case.settings) / case.sizes.layers
    # operations a weight: frozen layers are computed once, the others in every epoch
    passes = 2 * share + 6 * (1 - share) * case.settings.epochs
    operations = case.batches.tokens * case.sizes.layer * case.sizes.layers * passes
    minutes = SLOWER * operations / _speed(case.sizes, case.half) / 60
    where = "on its GPU" if torch.cuda.is_available() else "of one core"
    detail = (
        f"about {max(minutes, 0.1):.1f} minutes {where} for {rows:,} rows, {case.batches.steps:,} "
        "steps"
    )
    return Finding(check="time", ok=True, detail=detail)


def _speed(sizes: ModelSizes, half: bool) -> float:
    """Measure the operations a second of a matrix product of the model's shape."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = torch.bfloat16 if half else torch.float32
    rows = torch.ones((1024, sizes.width), dtype=dtype, device=device)
    weight = torch.ones((sizes.width, sizes.inner), dtype=dtype, device=device)
    clock = time.perf_counter if device == "cuda" else time.process_time
    best = float("inf")
    for _ in range(4):  # the first one warms up
        start = clock()
        (rows @ weight).sum().item()
        best = min(best, clock() - start)
    return 2.0 * rows.shape[0] * weight.numel() / max(best, 1e-6)
