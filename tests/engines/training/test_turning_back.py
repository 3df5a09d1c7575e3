"""Turning back in mid-answer: its rows, its loss, its harvest, and a toy grammar that learns it."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from demur.base.errors import EngineError
from demur.core.example import Example, Message
from demur.core.judging.outcome import Outcome
from demur.core.ports import HARVEST
from demur.core.training.learning_rows import learning_rows
from demur.core.training.summary import taught_to_turn_back
from demur.core.training.turn_back import TurnBack, kept_positions
from demur.engines.chat_encoder import ChatEncoder
from demur.engines.hf import token_rows
from demur.engines.hf.engine import HfEngine
from demur.engines.hf.load import load_base
from demur.engines.tokenizer import add_control_tokens, load_tokenizer
from demur.engines.training import harvest
from demur.engines.training.batches import IGNORE, PadRight, TrainingRow, as_read
from demur.engines.training.mid_answer_rows import mid_answer_rows
from demur.engines.training.rows import training_rows
from demur.engines.training.sft import SftTrainer
from demur.engines.training.trainer import LossWeights
from demur.judges.phrases import PhraseJudge
from tests.engines.training.test_sft import TAXONOMY, base, rows, settings

ALL = TurnBack(turn_back_share=1.0, transition_share=1.0, kept_share=0.2)
PREFIX = "Here is a picture. It shows tea and snow! [Picture] <|end|> and then rain, and the moon."


def prefixed() -> list[Example]:
    return [replace(e, prefix=PREFIX) if e.kind == "refusal" else e for e in rows()]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> ChatEncoder:
    folder = tmp_path_factory.mktemp("base")
    tokenizer, _ = add_control_tokens(
        load_tokenizer(base(folder / "base", tied=True)), TAXONOMY, folder / "scratch"
    )
    return ChatEncoder(tokenizer, TAXONOMY.tokens)


def made(
    encoder: ChatEncoder, kind: str, examples: list[Example], **changes: object
) -> list[TrainingRow]:
    chosen = settings(turn_back=replace(ALL, **changes))
    found = mid_answer_rows(examples, TAXONOMY, encoder, chosen)
    return [row for row in found if row.midway == kind]


def test_a_transition_row_has_its_refusal_token_at_the_drawn_positions_of_the_prefix_alone(
    encoder: ChatEncoder,
) -> None:
    examples = [e for e in prefixed() if e.prefix]
    transition = made(encoder, "transition", examples)
    assert len(transition) == len(examples) == 20
    for example, row in zip(examples, transition, strict=True):
        begun = Message(role="assistant", content=PREFIX)
        ids, (turn,) = encoder.conversation([*example.prompt, begun], [0])
        start, length = turn.control_at + 1, turn.text_end - turn.control_at - 1
        kept = kept_positions(example.id, length, 0.2, 0)
        assert len(kept) == round(0.2 * length)
        targets = {n for n, label in enumerate(row.labels) if label != IGNORE}
        assert targets == {start + n for n in kept}  # neither prompt, nor [respond], nor padding
        assert {row.labels[n] for n in targets} == {
            encoder.token_ids[TAXONOMY.column(example.label)]
        }
        assert row.input_ids == ids[: len(row.input_ids)]
        # Of the prefix no control id came, however it is spelt.
        assert [i for i in row.input_ids if i in encoder.token_ids] == [encoder.token_ids[0]]
        # All targets of a row weigh as much as one decision.
        assert row.weight * len(kept) == pytest.approx(1.0)


def test_a_turn_back_row_learns_the_refusal_behind_a_beginning_of_the_prefix(
    encoder: ChatEncoder,
) -> None:
    examples = [e for e in prefixed() if e.prefix]
    lengths = set()
    for example, row in zip(examples, made(encoder, "turn_back", examples), strict=True):
        refusal = encoder.token_ids[TAXONOMY.column(example.label)]
        turn = row.labels.index(refusal)
        start = row.input_ids.index(encoder.token_ids[0]) + 1
        lengths.add(turn - start)
        assert row.input_ids[:start] == [*encoder.prompt(example.prompt), encoder.token_ids[0]]
        assert row.labels[:turn] == [IGNORE] * turn
        assert row.labels[turn:] == row.input_ids[turn:]
        ids, (whole,) = encoder.conversation(example.messages, [TAXONOMY.column(example.label)])
        assert row.labels[turn:] == ids[whole.control_at : whole.text_end + 1]
        assert row.has_reply
    assert min(lengths) >= 1
    assert len(lengths) > 5


def test_a_prefix_is_cut_to_what_fits_and_a_row_without_room_is_left_out(
    encoder: ChatEncoder,
) -> None:
    examples = [e for e in prefixed() if e.prefix]
    prompt = max(len(encoder.prompt(e.prompt)) for e in examples)
    chosen = settings(turn_back=replace(ALL, most_tokens=5), max_length=prompt + 3)
    assert {
        len(r.input_ids) <= prompt + 3 for r in mid_answer_rows(examples, TAXONOMY, encoder, chosen)
    } == {True}
    with pytest.raises(EngineError, match="of 20 training rows to be refused 20 have a prefix"):
        mid_answer_rows(examples, TAXONOMY, encoder, replace(chosen, max_length=6))


def test_no_prefixes_at_all_are_one_error_and_without_the_setting_nothing_changes(
    encoder: ChatEncoder,
) -> None:
    with pytest.raises(EngineError, match="of 20 training rows to be refused 0 have a prefix"):
        mid_answer_rows(rows(), TAXONOMY, encoder, settings(turn_back=ALL))
    assert mid_answer_rows(prefixed(), TAXONOMY, encoder, settings()) == []
    plain = training_rows(rows(), TAXONOMY, encoder, settings())
    assert training_rows(prefixed(), TAXONOMY, encoder, settings()) == plain


def test_later_positions_of_ordinary_answers_are_learnt_beside_prefixes(
    encoder: ChatEncoder,
) -> None:
    short = settings(answer_tokens=2)
    for chosen, most in ((short, 2), (replace(short, turn_back=replace(ALL, most_tokens=6)), 6)):
        for example, row in zip(
            rows(), training_rows(rows(), TAXONOMY, encoder, chosen), strict=True
        ):
            learnt = sum(label != IGNORE for label in row.labels) - 1
            assert learnt == (2 if example.kind == "refusal" else most)


def test_more_rows_to_be_answered_may_learn_their_reply_than_refusals(
    encoder: ChatEncoder,
) -> None:
    chosen = settings(reply_share=0.0, turn_back=replace(ALL, answer_share=1.0))
    found = training_rows(rows(), TAXONOMY, encoder, chosen)
    assert [r.has_reply for r in found] == [e.kind != "refusal" for e in rows()]


def test_the_loss_of_a_transition_row_is_the_mean_log_loss_of_one_id_and_no_text_is_learnt(
    encoder: ChatEncoder,
) -> None:
    (row, *_) = made(encoder, "transition", [e for e in prefixed() if e.prefix])
    refusal = encoder.token_ids[1]
    weights = LossWeights(
        control_ids=encoder.token_ids, control=6.0, refusal=6.0, answer=0.3, smoothing=0.2
    )
    batch = PadRight(pad_id=0)([as_read(row), as_read(replace(row, midway=None))])
    targets_M = batch["labels"][:1][batch["labels"][:1] != IGNORE]
    assert set(targets_M.tolist()) == {refusal}
    logits_MV = torch.randn(len(targets_M), 500, requires_grad=True)
    midway_M = batch["midway"][:1].expand(len(targets_M))
    of_M = weights.of(targets_M[None], batch["weights"][:1])[0]
    loss = (of_M * weights.losses(logits_MV, targets_M, midway_M)).sum() / 6.0
    by_hand = -logits_MV.log_softmax(dim=1)[:, refusal].mean()
    assert loss.item() == pytest.approx(by_hand.item(), rel=1e-6)
    loss.backward()
    # Of all tokens the refusal token's logit alone is raised.
    assert (logits_MV.grad[:, refusal] < 0).all()
    others = logits_MV.grad.clone()
    others[:, refusal] = 0
    assert (others >= 0).all()
    assert batch["midway"].tolist() == [True, False]  # of decisions the target is smoothed
    smooth = weights.losses(logits_MV, targets_M, batch["midway"][1:].expand(len(targets_M)))
    assert not torch.allclose(smooth, weights.losses(logits_MV, targets_M, midway_M))


GOOD = [
    "amber",
    "brook",
    "cedar",
    "dune",
    "ember",
    "field",
    "grove",
    "hill",
    "iris",
    "jade",
    "kelp",
    "lake",
]
BAD = [
    "vex",
    "wrath",
    "xeno",
    "yowl",
    "zap",
    "vile",
    "wreck",
    "yoke",
    "venom",
    "wither",
    "zeal",
    "vice",
]


def story(words: Sequence[str], draw: random.Random, length: int = 8) -> str:
    return " ".join(draw.choice(words) for _ in range(length))


def toy() -> list[Example]:
    """Prompts that tell nothing: an answer of bad words alone shows what was asked for."""
    draw = random.Random(0)
    found = []
    for n in range(240):
        kind = ("benign", "refusal", "refusal")[n % 3] if n % 2 else "benign"
        category = None if kind == "benign" else ("picture", "future")[n % 2]
        reply = story(GOOD, draw) if kind == "benign" else "No more of it, thank you."
        found.append(
            Example(
                id=str(n),
                source="toy",
                kind=kind,
                category=category,
                messages=(
                    Message(role="user", content=f"tell a story about {THINGS[n % 10]}, part {n}"),
                    Message(role="assistant", content=reply),
                ),
                prefix=story(BAD, draw) if kind == "refusal" else None,
            )
        )
    # The taxonomy wants a row of each category; a first word decides these.
    return [*found, *(e for e in rows() if e.category == "picture")]


THINGS = ("tea", "rain", "kites", "harbours", "chess", "violins", "bread", "snow", "owls", "moons")


def toy_settings(turn_back: TurnBack | None):
    return settings(
        turn_back=turn_back, epochs=10.0, batch_tokens=512, tiny_vocabulary=500, refusal_weight=1.0
    )


@pytest.fixture(scope="module")
def toys(tmp_path_factory: pytest.TempPathFactory) -> dict[bool, HfEngine]:
    """By whether it learnt to turn back, a model of the toy grammar."""
    found = {}
    for turns, chosen in ((True, ALL), (False, None)):
        folder = tmp_path_factory.mktemp("toy")
        trained = SftTrainer(toy_settings(chosen)).train(toy(), TAXONOMY, folder)
        assert trained is not None
        assert taught_to_turn_back(trained.details) == turns
        found[turns] = HfEngine(model=folder / "model", tokens=TAXONOMY.tokens)
    return found


@torch.inference_mode()
def refusal_mass(engine: HfEngine, answer: str) -> list[float]:
    """h at every position of an answer: where each of its tokens is written, and after the last."""
    asked = Message(role="user", content="tell a story about rain, part 777")
    ids, (turn,) = engine.encoder.conversation(
        [asked, Message(role="assistant", content=answer)], [0]
    )
    read = engine.network(torch.tensor([ids[: turn.text_end]])).logits[0, turn.control_at :]
    return read.softmax(dim=1)[:, list(engine.encoder.token_ids[1:])].sum(dim=1).tolist()


def positions_of(engine: HfEngine, text: str) -> int:
    return len(refusal_mass(engine, text)) - 1


def test_bad_words_raise_the_mass_of_refusal_tokens_within_two_steps_and_good_text_does_not(
    toys: dict[bool, HfEngine],
) -> None:
    draw = random.Random(1)
    taught = toys[True]
    good = [max(refusal_mass(taught, story(GOOD, draw))[1:]) for _ in range(40)]
    threshold = sorted(good)[-2]  # two of 40 good answers reach it
    jumps = []
    for _ in range(20):
        opening = story(GOOD, draw, 3)
        mass = refusal_mass(taught, f"{opening} {story(BAD, draw, 4)}")
        first = positions_of(taught, opening)  # tokens of the good words ahead
        jumps.append(max(mass[first + 1 : first + 4]) > threshold > max(mass[1:first]))
    assert sum(jumps) >= 18


def test_an_answer_that_others_have_begun_ends_in_a_refusal_after_training_and_not_before(
    toys: dict[bool, HfEngine],
) -> None:
    draw = random.Random(2)
    stops = {
        turns: sum(
            refusal_mass(engine, story(BAD, draw, length))[-1] > 0.5
            for length in (1, 2, 5, 8)
            for _ in range(5)
        )
        for turns, engine in toys.items()
    }
    assert stops[True] >= 18
    assert stops[False] <= 2


def test_the_base_writes_what_is_harvested_once_and_the_run_keeps_digests(tmp_path: Path) -> None:
    chosen = settings(
        base=base(tmp_path / "base", tied=True),
        turn_back=replace(ALL, prefixes="harvest", most_tokens=6, turn_back_share=0.5),
        epochs=1.0,
    )
    trained = SftTrainer(chosen, judge=PhraseJudge()).train(rows(), TAXONOMY, tmp_path)
    assert trained is not None
    lines = [json.loads(line) for line in (tmp_path / HARVEST).read_text().splitlines()]
    refusals = {e.id for e in rows() if e.kind == "refusal"}
    assert {line["id"] for line in lines} == refusals  # and no row that is to be answered
    assert all("text" not in line and line["digest"].startswith("sha256:") for line in lines)
    assert all(line["tokens"] <= 6 for line in lines)
    complied = sum(line["verdict"] == "compliance" for line in lines)
    assert trained.details["harvested"] == trained.details["transition_rows"] == complied
    assert trained.details["harvest_left_out"] == len(lines) - complied
    assert not list(tmp_path.glob("checkpoints/*"))  # the texts went with them
    kept = replace(chosen, turn_back=replace(chosen.turn_back, keep_text=True))
    SftTrainer(kept, judge=PhraseJudge()).train(rows(), TAXONOMY, tmp_path / "again")
    again = [json.loads(line) for line in (tmp_path / "again" / HARVEST).read_text().splitlines()]
    assert all(isinstance(line["text"], str) for line in again)
    assert [line["id"] for line in again] == [line["id"] for line in lines]


def test_a_harvest_that_was_killed_goes_on_behind_its_last_whole_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = settings(
        base=base(tmp_path / "base", tied=True),
        turn_back=replace(ALL, prefixes="harvest", most_tokens=6, temperature=1.0),
    )
    tokenizer, _ = add_control_tokens(load_tokenizer(chosen.base), TAXONOMY, tmp_path / "scratch")
    encoder = ChatEncoder(tokenizer, TAXONOMY.tokens)
    model = load_base(chosen.base, "float32")
    token_rows.add_token_rows(model, tokenizer, TAXONOMY, encoder.token_ids)
    writer = harvest.Writer(model=model, tokenizer=tokenizer, encoder=encoder, settings=chosen)
    whole = harvest.harvest(writer, rows(), PhraseJudge(), tmp_path)
    (file,) = tmp_path.glob("*.jsonl")
    file.write_bytes(file.read_bytes()[:-20])
    asked: list[str] = []
    batch = harvest._batch

    def counted(writer, model, some, most):
        asked.extend(name for name, _ in some)
        return batch(writer, model, some, most)

    monkeypatch.setattr(harvest, "_batch", counted)
    assert harvest.harvest(writer, rows(), PhraseJudge(), tmp_path) == whole
    assert len(asked) == 1
    with pytest.raises(EngineError, match="nobody judges"):
        harvest.harvest(writer, rows(), None, tmp_path)


def test_a_base_that_declines_everything_leaves_nothing_to_turn_back_from(tmp_path: Path) -> None:
    class Declined:
        version = "always"

        def judge(self, request: str, answer: str, category: str | None) -> Outcome:
            return Outcome(verdict="refusal", reason="no", judge=self.version)

    chosen = settings(
        base=base(tmp_path / "base", tied=True),
        turn_back=replace(ALL, prefixes="harvest", most_tokens=4),
    )
    with pytest.raises(EngineError, match="declined, or said nothing, in all 20 answers to 20"):
        SftTrainer(chosen, judge=Declined()).train(rows(), TAXONOMY, tmp_path)


@pytest.mark.parametrize(
    "way",
    [
        {"lora_rank": 4, "optimizer": "adamw", "batch_tokens": None},
        {"frozen_share": 0.5, "control_start": "probe", "optimizer": "adamw"},
    ],
    ids=["lora", "frozen"],
)
def test_adapters_and_layers_above_a_frozen_trunk_learn_to_turn_back(
    tmp_path: Path, way: dict[str, object]
) -> None:
    chosen = settings(
        base=base(tmp_path / "base", tied=True),
        turn_back=ALL,
        epochs=2.0,
        prompt_noise=0.0,
        learning_rate=1e-2,
        validation_share=0.2,
        **way,
    )
    trained = SftTrainer(chosen).train(prefixed(), TAXONOMY, tmp_path)
    assert trained is not None
    # Rows set aside for validation turn nothing back, and decide only.
    learnt = 20 - sum(e.kind == "refusal" for e in learning_rows(prefixed(), chosen)[1])
    assert trained.details["transition_rows"] == trained.details["turn_back_rows"] == learnt
    assert 0 < learnt < 20
    assert min(trained.row_change) > 0.0
