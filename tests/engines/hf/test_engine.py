"""One engine for every architecture: each prompt is read once, and how it is batched changes
nothing.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from demur.base.errors import EngineError, PolicyError
from demur.core.decision import decide_many
from demur.core.fingerprint import Fingerprint
from demur.core.policy import CategoryPolicy, Policy, natural
from demur.core.serving import Answerer
from demur.core.taxonomy import coconot, single
from demur.engines.hf.engine import HfEngine, shared_start
from demur.engines.hf.load import PRESETS
from tests.builders import undoubted
from tests.engines.checkpoints import TEMPLATES, user

CAUSAL = ["llama", "gpt2", "qwen2", "gemma2", "bert"]
TOKENS = coconot().tokens
PROMPTS = [
    user("What is the capital of France?"),
    user("How do I bake bread at home? " * 5),
    user("Hi"),
    user("What is the capital of France?"),
    user("Tell me how you feel today, please, and what you think of [respond] things."),
]


@pytest.fixture(scope="module", params=CAUSAL)
def engine(request, checkpoints):
    return HfEngine(model=checkpoints[request.param], tokens=TOKENS, max_new_tokens=20)


@pytest.fixture(scope="module")
def llama(checkpoints):
    return HfEngine(model=checkpoints["llama"], tokens=TOKENS, max_new_tokens=20)


class Passes:
    """Counts the positions that a network reads, one entry per forward pass: rows x columns."""

    def __init__(self, engine):
        self.shapes = []
        self._engine = engine

    def __enter__(self):
        self._handle = self._engine.network.register_forward_pre_hook(
            lambda _, args, kwargs: self.shapes.append(
                tuple((args[0] if args else kwargs["input_ids"]).shape)
            ),
            with_kwargs=True,
        )
        return self

    def __exit__(self, *_):
        self._handle.remove()


@torch.no_grad()
def plain_logp(engine, prompt):
    """Scores by the book: one row, all logits, float64 log-softmax."""
    ids = torch.tensor([engine.encoder.prompt(prompt)])
    logits_V = engine.network(ids, attention_mask=torch.ones_like(ids)).logits[0, -1].double()
    return torch.log_softmax(logits_V, dim=0)[list(engine.encoder.token_ids)].numpy()


def two_prefills(engine, prompt, column):
    """transformers' own generate, reading prompt and control token anew. Returns the ids before a
    stop.
    """
    ids = torch.tensor([[*engine.encoder.prompt(prompt), engine.encoder.token_ids[column]]])
    rules = engine.rules
    with torch.no_grad():
        whole = engine.network.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            max_new_tokens=rules.max_new_tokens,
            eos_token_id=list(rules.stops),
            suppress_tokens=list(rules.banned),
        )
    new = whole[0, ids.shape[1] :].tolist()
    return [i for i in new if i not in rules.stops]


def test_batched_scores_equal_those_of_each_prompt_alone_and_by_the_book(engine):
    logp_NC = engine.logp(PROMPTS)
    assert logp_NC.dtype == np.float32
    np.testing.assert_allclose(
        logp_NC, np.concatenate([engine.logp([p]) for p in PROMPTS]), atol=1e-4
    )
    np.testing.assert_allclose(logp_NC, [plain_logp(engine, p) for p in PROMPTS], atol=1e-4)


def test_what_prompts_begin_with_is_read_once_and_their_scores_stay(engine):
    asked = [
        user("Answer with care, in one sentence, and say where you know it from: " * 2 + q)
        for q in "ABCDEFGH"
    ]
    longest = max(len(engine.encoder.prompt(p)) for p in asked)
    engine.logp(asked[:1])
    assert engine.sharing_is_harmless
    with Passes(engine) as passes:
        logp_NC = engine.logp(asked)
    (one, start), (rows, rest) = passes.shapes
    assert (one, rows, start + rest) == (1, len(asked), longest)
    assert rest < start
    np.testing.assert_allclose(logp_NC, [plain_logp(engine, p) for p in asked], atol=1e-4)


def test_a_network_is_told_of_a_cache_only_where_there_is_one(llama):
    told = []
    hook = llama.network.register_forward_pre_hook(
        lambda _, args, kwargs: told.append(kwargs), with_kwargs=True
    )
    llama.logp(PROMPTS[:1])
    hook.remove()
    assert told == [{"use_cache": False}]


@given(st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=6), min_size=1, max_size=5))
def test_a_shared_start_is_the_longest_that_leaves_each_row_a_token(rows):
    n = shared_start(rows)
    assert all(row[:n] == rows[0][:n] and len(row) > n for row in rows)
    assert any(len(row) == n + 1 or row[: n + 1] != rows[0][: n + 1] for row in rows)


def test_one_prefill_writes_what_two_prefills_write_token_for_token(engine):
    asked = [[0, 1], [2], [], [0], [0, 3, 5]]
    answers = engine.branches(PROMPTS, asked)
    assert [sorted(a) for a in answers] == asked
    for prompt, by_column in zip(PROMPTS, answers, strict=True):
        for column, answer in by_column.items():
            ids = two_prefills(engine, prompt, column)
            assert answer.tokens == len(ids)
            assert answer.text == engine.tokenizer.decode(ids, skip_special_tokens=True).strip()
            assert answer.finished == (len(ids) < engine.max_new_tokens)


def test_answers_do_not_depend_on_the_batch_they_are_written_in(engine):
    together = engine.branches(PROMPTS, [[0, 4]] * len(PROMPTS))
    assert together == [engine.branches([p], [[0, 4]])[0] for p in PROMPTS]


def test_an_answer_needs_one_prefill_and_then_one_position_a_token(llama):
    with Passes(llama) as passes:
        ((_, _, answer),) = llama.answer(PROMPTS[:1], natural(coconot(), llama.fingerprint))
    prompt_length = len(llama.encoder.prompt(PROMPTS[0]))
    assert passes.shapes[0] == (1, prompt_length)
    assert passes.shapes[1:] == [(1, 1)] * (answer.tokens + answer.finished)


def test_branches_of_one_prompt_share_its_prefill(llama):
    with Passes(llama) as passes:
        llama.branches(PROMPTS[:1], [[0, 1, 2]])
    assert [shape for shape in passes.shapes if shape[1] > 1] == [
        (1, len(llama.encoder.prompt(PROMPTS[0])))
    ]
    assert passes.shapes[1] == (3, 1)


def test_equal_prompts_are_scored_once_and_progress_counts_every_one(llama):
    llama.logp(PROMPTS)  # the self-check of padding happens once
    seen = []
    with Passes(llama) as passes:
        logp_NC = llama.logp([PROMPTS[0]] * 7, lambda done, total: seen.append((done, total)))
    assert passes.shapes == [(1, len(llama.encoder.prompt(PROMPTS[0])))]
    assert seen == [(7, 7)]
    assert (logp_NC == logp_NC[0]).all()


def test_no_prompts_give_no_scores_and_no_answers(llama):
    assert llama.logp([]).shape == (0, 6)
    assert llama.branches([], []) == []
    assert llama.answer([], natural(coconot(), llama.fingerprint)) == []
    assert isinstance(llama, Answerer)


def test_batches_stay_within_the_token_budget(checkpoints):
    engine = HfEngine(model=checkpoints["llama"], tokens=TOKENS, batch_tokens=64)
    prompts = [user("word " * n) for n in range(1, 30, 2)]
    engine.logp(prompts)  # the self-check of padding happens once
    with Passes(engine) as passes:
        engine.logp(prompts)
    assert all(rows == 1 or rows * width <= 64 for rows, width in passes.shapes)
    assert sum(rows for rows, _ in passes.shapes) >= len(prompts)


def test_where_padding_would_be_read_rows_of_equal_length_are_batched(checkpoints):
    engine = HfEngine(model=checkpoints["bert-not-causal"], tokens=TOKENS)
    np.testing.assert_allclose(
        engine.logp(PROMPTS), [plain_logp(engine, p) for p in PROMPTS], atol=1e-4
    )


def test_a_model_without_a_cache_cannot_write_and_says_so(checkpoints):
    engine = HfEngine(model=checkpoints["bert-not-causal"], tokens=TOKENS)
    with pytest.raises(EngineError, match="keeps no key-value cache"):
        engine.branches(PROMPTS[:1], [[0]])


@pytest.mark.parametrize("column", [0, 3])
def test_control_tokens_are_never_written_after_the_first_position(llama, column):
    head = llama.network.get_output_embeddings().weight
    kept = head.detach().clone()
    try:
        with torch.no_grad():  # every control token outweighs every other at every position
            head[list(llama.encoder.token_ids)] = head[7] * 50
        answers = llama.branches(PROMPTS, [[column]] * len(PROMPTS))
    finally:
        head.data.copy_(kept)
    assert not any(token in answer[column].text for answer in answers for token in TOKENS)
    assert any(answer[column].tokens for answer in answers)


def test_answers_follow_the_decision_of_the_policy(engine):
    scores = engine.logp(PROMPTS)
    half = float(np.median(np.exp(scores[:, 1:]).max(axis=1)))
    policy = Policy(
        name="half",
        taxonomy=coconot(),
        rule="heaviest",
        categories=(CategoryPolicy(threshold=half * 1.0001),) * 5,
        fingerprint=engine.fingerprint,
    )
    # the networks are not trained: nearly all of their probability is elsewhere
    policy = undoubted(policy)
    answered = engine.answer(PROMPTS, policy)
    np.testing.assert_allclose([logp_C for logp_C, _, _ in answered], scores, atol=1e-4)
    columns = decide_many(policy, scores).choice_N.tolist()
    assert [d.column for _, d, _ in answered] == columns
    assert 0 in columns
    assert any(columns)
    branches = engine.branches(PROMPTS, [[c] for c in columns])
    assert [a for _, _, a in answered] == [b[c] for b, c in zip(branches, columns, strict=True)]


def test_a_prompt_longer_than_the_context_is_named_with_its_length(llama):
    with pytest.raises(EngineError, match=r"prompt 1 has \d+ tokens .* reads 192"):
        llama.logp([PROMPTS[0], user("word " * 400)])


def test_answers_end_where_the_context_ends(engine):
    text = next(t for n in range(200) if len(engine.encoder.prompt(user(t := "sea " * n))) >= 185)
    room = 192 - len(engine.encoder.prompt(user(text))) - 1
    (answers,) = engine.branches([user(text)], [[0]])
    assert 0 < answers[0].tokens + answers[0].finished <= room < engine.max_new_tokens
    assert (
        engine.branches([user(text), PROMPTS[2]], [[0], [0]])[1]
        == engine.branches([PROMPTS[2]], [[0]])[0]
    )


def test_a_policy_of_another_model_or_taxonomy_is_refused(llama):
    other = Fingerprint(
        model_digest="sha256:0",
        tokenizer_digest=llama.fingerprint.tokenizer_digest,
        template_digest=llama.fingerprint.template_digest,
        tokens=TOKENS,
        token_ids=llama.fingerprint.token_ids,
        dtype="float32",
    )
    with pytest.raises(PolicyError, match="another model: model_digest, config_digest differ"):
        llama.answer(PROMPTS, natural(coconot(), other))
    with pytest.raises(PolicyError, match="names no model"):
        llama.answer(PROMPTS, natural(single()))
    assert len(llama.answer(PROMPTS[:1], natural(coconot(), llama.fingerprint))) == 1


def test_the_fingerprint_names_dtype_and_changes_with_the_history_setting(checkpoints, llama):
    half = HfEngine(model=checkpoints["llama"], tokens=TOKENS, dtype="bfloat16", keep_history=False)
    assert llama.fingerprint.dtype == "float32"
    assert half.fingerprint.differences(llama.fingerprint) == ("template_digest", "dtype")
    np.testing.assert_allclose(half.logp(PROMPTS), llama.logp(PROMPTS), atol=0.3)


def test_loading_leaves_no_trace_in_the_folder(checkpoints, llama):
    before = {p.name: p.read_bytes() for p in checkpoints["llama"].iterdir() if p.is_file()}
    HfEngine(model=checkpoints["llama"], tokens=TOKENS).logp(PROMPTS)
    assert {p.name: p.read_bytes() for p in checkpoints["llama"].iterdir() if p.is_file()} == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tokens": ("[respond]", "[refuse]")}, r"'\[refuse\]' encodes to"),
        ({"tokens": TOKENS, "dtype": "float8"}, "unknown dtype 'float8'"),
        ({"tokens": TOKENS, "preset": "released"}, "give exactly one"),
        ({}, "give exactly one"),
        ({"preset": "relased"}, "did you mean 'released'"),
        ({"preset": "released"}, "not added tokens of this tokenizer"),
    ],
)
def test_wrong_options_are_named(checkpoints, options, message):
    with pytest.raises(EngineError, match=message):
        HfEngine(model=checkpoints["llama"], **options)


def test_a_missing_or_damaged_checkpoint_is_named(checkpoints, tmp_path):
    with pytest.raises(EngineError, match="there is no folder"):
        HfEngine(model=tmp_path / "nowhere", tokens=TOKENS)
    for file in checkpoints["llama"].iterdir():
        if file.is_file():
            (tmp_path / file.name).write_bytes(file.read_bytes())
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:2000])
    with pytest.raises(EngineError, match="cannot load"):
        HfEngine(model=tmp_path, tokens=TOKENS)


def test_a_checkpoint_without_its_head_is_refused_instead_of_filled_with_chance(
    checkpoints, tmp_path, llama
):
    bert = HfEngine(model=checkpoints["bert"], tokens=TOKENS)
    bert.network.bert.save_pretrained(tmp_path)
    bert.tokenizer.save_pretrained(tmp_path)
    with pytest.raises(EngineError, match=r"lacks \d+ weights"):
        HfEngine(model=tmp_path, tokens=TOKENS)


@pytest.mark.parametrize("name", PRESETS)
def test_published_checkpoints_are_read_by_id_whatever_their_tokens_are_spelled_like(
    checkpoints, tmp_path, name
):
    preset = PRESETS[name]
    spelled = {token_id: token for token, token_id in zip(preset.tokens, preset.ids, strict=True)}
    words = {
        word: n for n, word in enumerate(["<|end|>", "hello", *map(str, range(min(spelled) - 2))])
    }
    backend = Tokenizer(models.WordLevel(words, unk_token="hello"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, chat_template=TEMPLATES["zephyr-like"]
    )
    # not special
    tokenizer.add_tokens(
        [f" {spelled.get(i, '<hole>')}" for i in range(min(spelled), max(spelled) + 1)]
    )
    tokenizer.save_pretrained(tmp_path)
    network = HfEngine(model=checkpoints["llama"], tokens=TOKENS).network
    network.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    network.save_pretrained(tmp_path)
    engine = HfEngine(model=tmp_path, preset=name, max_new_tokens=4)
    assert engine.fingerprint.token_ids == preset.ids
    assert engine.fingerprint.tokens == preset.tokens
    assert not set(engine.encoder.prompt(user("say [respond] and  [refuse]"))) & set(preset.ids)
    np.testing.assert_allclose(
        engine.logp(PROMPTS[:2]), [plain_logp(engine, p) for p in PROMPTS[:2]], atol=1e-4
    )
