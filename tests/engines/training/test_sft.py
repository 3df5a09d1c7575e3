"""Training, for real, on rows small enough for seconds."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from demur.base.errors import EngineError
from demur.core.example import Example, Message
from demur.core.taxonomy import Category, Taxonomy
from demur.core.training.settings import TrainSettings, tiny
from demur.engines.chat_encoder import ChatEncoder
from demur.engines.tokenizer import add_control_tokens, load_tokenizer
from demur.engines.training.base_model.tiny import TinyConfig, make_tiny
from demur.engines.training.resources.machine import check_processes
from demur.engines.training.rows import training_rows
from demur.engines.training.sft import SftTrainer

TAXONOMY = Taxonomy(
    name="two",
    respond_token="[respond]",
    categories=(
        Category(name="picture", token="[Picture]", description="Wants a picture drawn."),
        Category(name="future", token="[Future]", description="Asks what will happen."),
    ),
)
THINGS = (
    "tea",
    "rain",
    "a kite",
    "the harbour",
    "chess",
    "a violin",
    "bread",
    "snow",
    "an owl",
    "the moon",
)


def rows() -> list[Example]:
    """Thirty rows whose first word decides, so that a few dozen steps learn them."""
    shapes = (
        ("draw", "picture", "refusal", "I can't draw, but I can describe {} in words for you."),
        ("predict", "future", "refusal", "Nobody knows what {} will be like by then."),
        ("define", None, "benign", "Let me tell you about {} in one sentence."),
    )
    return [
        Example(
            id=f"{word}:{n}",
            source="test",
            kind=kind,
            category=category,
            messages=(
                Message(role="user", content=f"{word} {thing} and then the next {n}"),
                Message(role="assistant", content=reply.format(thing)),
            ),
        )
        for word, category, kind, reply in shapes
        for n, thing in enumerate(THINGS)
    ]


def settings(**changes: object) -> TrainSettings:
    size = {"tiny_width": 64, "tiny_layers": 2, "tiny_heads": 2, "tiny_vocabulary": 400}
    return replace(tiny(epochs=16), **{"answer_tokens": 48, "batch_tokens": 128, **size, **changes})


def base(folder: Path, *, tied: bool) -> str:
    """An untrained checkpoint to fine-tune."""
    make_tiny(rows(), TinyConfig(width=32, layers=2, heads=2, vocabulary=400), folder, seed=0)
    if not tied:
        config = LlamaConfig.from_pretrained(folder, tie_word_embeddings=False)
        LlamaForCausalLM(config).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("trained")
    return folder, SftTrainer(settings()).train(rows(), TAXONOMY, folder)


def test_the_checkpoint_loads_without_demur_and_opens_with_the_right_token(trained) -> None:
    folder, result = trained
    model = AutoModelForCausalLM.from_pretrained(folder / "model")
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    turn = {"role": "user", "content": "draw the harbour and then the next 3"}
    text = tokenizer.apply_chat_template([turn], tokenize=False, add_generation_prompt=True)
    logits = model(**tokenizer(text, return_tensors="pt", add_special_tokens=False)).logits[0, -1]
    assert tokenizer.decode([int(logits.argmax())]) == "[Picture]"
    assert result.fingerprint.token_ids == tuple(tokenizer.convert_tokens_to_ids(TAXONOMY.tokens))


def test_training_logs_the_control_tokens_share_of_the_loss_and_that_every_row_moved(
    trained,
) -> None:
    _, result = trained
    assert all(0 <= row["control_loss_share"] <= 1 for row in result.history)
    assert result.history[-1]["loss"] < result.history[0]["loss"]
    assert len(result.row_change) == 3
    assert min(result.row_change) > 0.01
    assert not list(trained[0].glob("checkpoints/*"))  # only needed until the model is there


def test_a_killed_training_resumes_and_ends_with_the_weights_of_an_unbroken_one(
    trained, tmp_path: Path
) -> None:
    class KilledError(Exception):
        pass

    def kill(step: int, total: int) -> None:
        if step == total // 2:
            raise KilledError

    trainer = SftTrainer(settings(save_every=3))
    with pytest.raises(KilledError):
        trainer.train(rows(), TAXONOMY, tmp_path, kill)
    assert not (tmp_path / "model").exists()
    steps: list[int] = []
    trainer.train(rows(), TAXONOMY, tmp_path, lambda step, _: steps.append(step))
    assert steps[0] > 1
    whole = AutoModelForCausalLM.from_pretrained(trained[0] / "model").state_dict()
    resumed = AutoModelForCausalLM.from_pretrained(tmp_path / "model").state_dict()
    assert all(torch.allclose(whole[k], resumed[k], atol=1e-5) for k in whole)


@pytest.mark.parametrize("tied", [True, False])
def test_lora_trains_the_control_rows_and_survives_the_merge(tmp_path: Path, tied: bool) -> None:
    lora = settings(
        base=base(tmp_path / "base", tied=tied),
        lora_rank=4,
        optimizer="adamw",
        learning_rate=1e-2,
        batch_tokens=None,
        prompt_noise=0.0,
    )
    result = SftTrainer(lora).train(rows(), TAXONOMY, tmp_path)
    assert min(result.row_change) > 0.01
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    assert (model.lm_head.weight.data_ptr() == model.model.embed_tokens.weight.data_ptr()) == tied


def test_a_base_model_without_a_chat_template_is_refused_unless_one_is_given(
    tmp_path: Path,
) -> None:
    bare = base(tmp_path / "base", tied=True)
    (tmp_path / "base" / "chat_template.jinja").unlink()
    with pytest.raises(EngineError, match="has no chat template") as error:
        SftTrainer(settings(base=bare)).train(rows(), TAXONOMY, tmp_path)
    assert '"turns"' in error.value.hint
    result = SftTrainer(settings(base=bare, chat_template="turns", epochs=2.0)).train(
        rows(), TAXONOMY, tmp_path
    )
    saved = AutoTokenizer.from_pretrained(tmp_path / "model")
    turns = [{"role": "user", "content": "draw tea"}]
    assert saved.apply_chat_template(turns, tokenize=False, add_generation_prompt=True).endswith(
        "### assistant\n"
    )
    assert result.steps > 0


def test_packed_rows_do_not_read_each_other_and_train(tmp_path: Path) -> None:
    packed = settings(
        packing=True, batch_tokens=None, prompt_noise=0.0, rows_per_device=1, max_length=128
    )
    result = SftTrainer(packed).train(rows(), TAXONOMY, tmp_path)
    assert result.history[-1]["loss"] < result.history[0]["loss"]


def test_a_category_without_training_rows_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="no training row for future"):
        SftTrainer(settings()).train([r for r in rows() if r.label != "future"], TAXONOMY, tmp_path)


def test_training_stops_when_the_processes_asked_for_did_not_come() -> None:
    with pytest.raises(EngineError, match="1 processes take part in training, 2 were asked for"):
        check_processes(2)


TWO_PROCESSES = """
import sys, pathlib
sys.path.insert(0, sys.argv[1])
from test_sft import TAXONOMY, rows, settings
from demur.engines.training.sft import SftTrainer
result = SftTrainer(settings()).train(rows(), TAXONOMY, pathlib.Path(sys.argv[2]))
if result: print("made", result.details["processes"], *[row["loss"] for row in result.history])
"""


def test_two_processes_train_with_the_loss_of_one_at_the_same_global_batch(
    trained, tmp_path: Path
) -> None:
    script = tmp_path / "two.py"
    script.write_text(TWO_PROCESSES)
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc_per_node",
        "2",
        "--master_port",
        "29531",
    ]
    ran = subprocess.run(
        [*command, str(script), str(Path(__file__).parent), str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert ran.returncode == 0, ran.stderr[-2000:]
    _, processes, *losses = next(
        line for line in ran.stdout.splitlines() if line.startswith("made")
    ).split()
    assert processes == "2"
    # Rounding in another order of summation grows with every step; a wrong batch or scale shows at
    # once.
    alone = [row["loss"] for row in trained[1].history]
    assert float(losses[0]) == pytest.approx(alone[0], rel=1e-4)
    assert [float(x) for x in losses] == pytest.approx(alone, rel=2e-2)


@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
def test_rows_that_do_not_learn_their_reply_end_at_their_control_token(
    tmp_path: Path, share: float
) -> None:
    tokenizer, _ = add_control_tokens(
        load_tokenizer(base(tmp_path / "base", tied=True)), TAXONOMY, tmp_path / "scratch"
    )
    encoder = ChatEncoder(tokenizer, TAXONOMY.tokens)
    chosen = settings(reply_share=share)
    made = training_rows(rows(), TAXONOMY, encoder, chosen)
    for row in made:
        assert (row.labels[-1] in encoder.token_ids) == (not row.has_reply)
    replying = [r.has_reply for r in made]
    assert sum(replying) / len(made) == pytest.approx(share, abs=0.2)
    backwards = training_rows(rows()[::-1], TAXONOMY, encoder, chosen)
    assert [r.has_reply for r in backwards] == replying[::-1]  # drawn row by row
    if 0 < share < 1:
        other = training_rows(rows(), TAXONOMY, encoder, replace(chosen, seed=1))
        assert [r.has_reply for r in other] != replying
