"""A sequence classifier of transformers as Scorer: a tiny random one, made here, and what it may
not be.
"""

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    PreTrainedTokenizerFast,
)

from demur.base.errors import EngineError, TaxonomyError
from demur.core.example import Message
from demur.core.score import check_scores
from demur.core.taxonomy import coconot, single
from demur.engines.hf.guard import HfGuard

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
PLAIN = (*"[]", "cls", "sep", "how", "do", "i", "pick", "a", "lock", "bake", "bread", "and", "now")


def tokenizer(longest=16):
    vocabulary = {word: at for at, word in enumerate((*SPECIAL, *PLAIN))}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=made,
        unk_token="[UNK]",
        pad_token="[PAD]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_max_length=longest,
    )


def checkpoint(folder, labels=("benign", "harmful", "jailbreak"), problem=None):
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(SPECIAL) + len(PLAIN),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=16,
        initializer_range=0.5,
        num_labels=len(labels),
        id2label=dict(enumerate(labels)),
        label2id={name: at for at, name in enumerate(labels)},
        problem_type=problem,
    )
    BertForSequenceClassification(config).eval().save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def guard_folder(tmp_path_factory):
    return checkpoint(tmp_path_factory.mktemp("guard"))


def guard(folder, **fields):
    return HfGuard(
        **{"model": folder, "refuse": ("harmful", "jailbreak"), "tokens": single().tokens, **fields}
    )


def said(*texts):
    return tuple(Message(role="user", content=t) for t in texts)


@torch.no_grad()
def by_hand(folder, text, head=lambda z: z.softmax(-1)[0, 1:].sum()):
    network = BertForSequenceClassification.from_pretrained(folder).eval()
    return float(head(network(**tokenizer()(text, return_tensors="pt")).logits.double()))


PROMPTS = ("how do i pick a lock", "bake bread", "a", "and now")


def test_the_score_is_the_probability_of_the_named_labels(guard_folder):
    logp_NC = guard(guard_folder).logp([said(t) for t in PROMPTS])
    check_scores(logp_NC)
    assert np.exp(logp_NC[:, 1]) == pytest.approx(
        [by_hand(guard_folder, t) for t in PROMPTS], abs=1e-5
    )
    assert logp_NC[:, 1].std() > 0.01


@pytest.mark.parametrize("batch", [1, 3])
def test_a_batch_changes_no_score(guard_folder, batch):
    seen = []
    prompts = [said(t) for t in PROMPTS]
    found = guard(guard_folder, batch=batch).logp(prompts, lambda done, of: seen.append((done, of)))
    assert found == pytest.approx(guard(guard_folder).logp(prompts), abs=1e-5)
    assert seen[-1] == (4, 4)


def test_names_of_labels_are_read_in_any_case(guard_folder):
    one, other = guard(guard_folder, refuse=("HARMFUL",)), guard(guard_folder, refuse=("harmful",))
    assert np.array_equal(one.logp([said("a")]), other.logp([said("a")]))


def test_independent_labels_are_as_probable_as_the_likeliest(tmp_path):
    folder = checkpoint(tmp_path, problem="multi_label_classification")
    found = np.exp(guard(folder).logp([said("a lock")])[0, 1])
    assert found == pytest.approx(
        by_hand(folder, "a lock", lambda z: z.sigmoid()[0, 1:].max()), abs=1e-5
    )


def test_a_model_of_one_label_says_its_probability(tmp_path):
    folder = checkpoint(tmp_path, labels=("unsafe",))
    found = np.exp(guard(folder, refuse=("unsafe",)).logp([said("a lock")])[0, 1])
    assert found == pytest.approx(by_hand(folder, "a lock", lambda z: z.sigmoid()[0, 0]), abs=1e-5)


def test_a_long_prompt_is_read_to_its_end_and_its_worst_part_counts(guard_folder):
    made = guard(guard_folder)
    words = " ".join(PLAIN[n % len(PLAIN)] for n in range(200))
    ids, owners = made._windows([said("a"), said(words)])
    alone = [
        made.logp([said(" ".join(words.split()[at : at + 14]))])[0, 1] for at in range(0, 187, 7)
    ]
    assert owners == [0] + [1] * (len(ids) - 1)
    assert max(map(len, ids)) == 16
    assert made.logp([said(words)])[0, 1] == pytest.approx(max(alone), abs=1e-5)
    assert made.logp([said("a")])[0, 1] == pytest.approx(
        made.logp([said("a"), said(words)])[0, 1], abs=1e-5
    )


def test_special_tokens_cannot_be_typed(guard_folder):
    ids, _ = guard(guard_folder)._windows([said("a [SEP] [CLS] lock [PAD]")])
    assert [i for i in ids[0] if i in (0, 2, 3)] == [2, 3]


def test_an_earlier_turn_counts_and_nothing_said_is_scored_too(guard_folder):
    made = guard(guard_folder)
    earlier, alone = made.logp([said("how do i pick a lock", "and now"), said("and now")])[:, 1]
    assert earlier != alone
    check_scores(made.logp([said("")]))
    assert made.logp([]).shape == (0, 2)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"refuse": ("harmfull",)}, "did you mean 'harmful'"),
        ({"refuse": ("zzz",)}, "labels: "),
        ({"refuse": ()}, "0 of 3 labels"),
        ({"refuse": ("benign", "harmful", "jailbreak")}, "3 of 3 labels"),
        ({"longest": 2}, "hold no text"),
        ({"model": "./nowhere"}, "cannot load"),
    ],
)
def test_what_cannot_be_used_is_named(guard_folder, fields, message):
    with pytest.raises(EngineError) as e:
        guard(guard_folder, **fields)
    assert message in str(e.value)


def test_a_model_without_a_classifier_is_refused(guard_folder, tmp_path):
    config = BertConfig.from_pretrained(guard_folder)
    BertModel(config).save_pretrained(tmp_path)
    tokenizer().save_pretrained(tmp_path)
    with pytest.raises(EngineError, match="sequence classifier"):
        guard(str(tmp_path))


def test_several_categories_are_refused(guard_folder):
    with pytest.raises(TaxonomyError):
        guard(guard_folder, tokens=coconot().tokens)


def test_the_fingerprint_tells_weights_labels_and_windows_apart(guard_folder, tmp_path):
    other = checkpoint(tmp_path, labels=("benign", "harmful", "other", "jailbreak"))
    made = [
        guard(guard_folder),
        guard(guard_folder, refuse=("harmful",)),
        guard(guard_folder, longest=12),
        guard(guard_folder, dtype="bfloat16"),
        guard(other),
    ]
    assert len({g.fingerprint.model_digest for g in made}) == 5
    assert guard(guard_folder).fingerprint == made[0].fingerprint
    assert made[0].fingerprint.logprobs == "predicted/guard-hf/float32"
