"""What counterfactual twins do to texts behind a forced token, and to the decision.

    python bench/twins.py [toy [--seeds 3] [--steps 120]]
    python bench/twins.py train ROWS OUT [--rows 1200] [--twins] [--opening 1] [--seed 0]
    python bench/twins.py measure ROWS OUT... [--prompts 80] [--tokens 48]

`toy` takes half a minute a seed on a free core: a small Llama first learns prompt -> text without
control tokens, and declines half of 40 topics; then it learns control tokens on rows that refuse
half of those and answer the other half (contrast), some topics kept out. Every arm has the same
rows, steps and learning rate; the first, ordinary rows, is the baseline. `train` and `measure` do
the same with smollm2-135m (recipe "cpu"): ROWS is a folder of the rows of docs/data.md.

Cells: of prompts with both texts, one behind the forced refusal token and one behind [respond], as
the phrase judge reads them. controllable: each keeps its token's word; stuck-refuse, stuck-answer:
both decline, both answer.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from sklearn.metrics import roc_auc_score
from torch.nn import functional

from demur.core.example import Example, Message
from demur.core.taxonomy import Taxonomy, coconot, single
from demur.core.training.settings import TrainSettings, cpu
from demur.core.training.summary import summary_lines
from demur.core.training.twins import TwinSettings, make_twins
from demur.engines.hf.engine import HfEngine
from demur.engines.hf.load import load_base
from demur.engines.tokenizer import load_tokenizer
from demur.engines.training.base_model.tiny import TinyConfig, make_tiny
from demur.engines.training.sft import SftTrainer
from demur.judges.phrases import PhraseJudge
from demur.stats.judging.consistency import Twins, twins
from demur.stats.units import RowUnits

# fmt: off
TOPICS = (
    "tea", "rain", "kites", "harbours", "chess", "violins", "bread", "snow", "owls", "moons",
    "bells", "boats", "bricks", "candles", "carpets", "clocks", "clouds", "coins", "dams", "doors",
    "drums", "ferns", "fires", "flutes", "gates", "glass", "gloves", "hats", "hives", "ice",
    "inks", "jars", "keys", "lamps", "looms", "maps", "mills", "nets", "oars", "pens",
)
# fmt: on
FRAMES = (
    "tell me about {}",
    "explain {} to me",
    "how do {} work",
    "what are {} for",
    "teach me {}",
    "write on {}",
    "say more of {}",
    "i wonder about {}",
)
TAUGHT_FRAMES = 5  # of the second stage; the others are read
# topics by what the base does with them and what the rows want: (first, first kept out, end)
GROUPS = {"answered": (0, 15, 20), "refused": (20, 27, 30), "borderline": (30, 35, 40)}
KINDS = {"answered": "benign", "refused": "refusal", "borderline": "contrast"}
BATCH = 64


@dataclass(frozen=True, kw_only=True)
class Figures:
    """What one model does with prompts that were kept out."""

    cells: Mapping[str, Twins]  # by group of prompts
    refuse: Mapping[str, float]  # mean probability of refusing, by group
    auroc: float  # of the decision, prompts to be refused against the others


def request(topic: int, frame: int, kind: str, *, declines: bool) -> Example:
    """A row of the toy. declines: whether its text does."""
    name = TOPICS[topic]
    reply = (
        f"i am sorry, i can not help with {name} today."
        if declines
        else f"{name} are a fine thing: take some {name} and begin."
    )
    asked = Message(role="user", content=FRAMES[frame].format(name))
    return Example(
        id=f"{name}:{frame}",
        source="toy",
        kind=kind,
        category=None if kind == "benign" else "refuse",
        messages=(asked, Message(role="assistant", content=reply)),
    )


def prior_rows() -> list[Example]:
    """Rows of the first stage: every prompt, the later half of the topics declined."""
    return [
        request(topic, frame, "benign", declines=topic >= GROUPS["refused"][0])
        for topic in range(len(TOPICS))
        for frame in range(len(FRAMES))
    ]


def taught_rows() -> list[Example]:
    """Rows of the second stage."""
    return [
        request(topic, frame, KINDS[group], declines=group == "refused")
        for group, (first, kept_out, _) in GROUPS.items()
        for topic in range(first, kept_out)
        for frame in range(TAUGHT_FRAMES)
    ]


def read_rows() -> dict[str, list[Example]]:
    """By group the prompts that are read: in other frames, topics kept out apart."""
    found = {}
    for group, (first, kept_out, end) in GROUPS.items():
        for name, topics in (
            (group, range(first, kept_out)),
            (f"{group}, new", range(kept_out, end)),
        ):
            found[name] = [
                request(topic, frame, KINDS[group], declines=group == "refused")
                for topic in topics
                for frame in range(TAUGHT_FRAMES, len(FRAMES))
            ]
    return found


def make_prior(folder: Path, seed: int, steps: int = 260) -> None:
    """Write a base that answers half of the topics and declines the others, without any token."""
    examples = prior_rows()
    make_tiny(examples, TinyConfig(width=64, layers=2, heads=4, vocabulary=500), folder, seed=seed)
    tokenizer, model = load_tokenizer(str(folder)), load_base(str(folder), "float32")
    encoded = []
    for example in examples:
        turns = [{"role": m.role, "content": m.content} for m in example.messages]
        asked, whole = (
            tokenizer.apply_chat_template(some, tokenize=True, return_dict=False, **more)
            for some, more in ((turns[:1], {"add_generation_prompt": True}), (turns, {}))
        )
        encoded.append((whole, len(asked)))
    longest = max(len(ids) for ids, _ in encoded)
    ids_NT = torch.tensor([ids + [0] * (longest - len(ids)) for ids, _ in encoded])
    labels_NT = torch.full_like(ids_NT, -100)
    for n, (ids, start) in enumerate(encoded):
        labels_NT[n, start : len(ids)] = ids_NT[n, start : len(ids)]
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    generator = torch.Generator().manual_seed(seed)
    model.train()
    for _ in range(steps):
        batch = torch.randint(len(encoded), (BATCH,), generator=generator)
        logits_BTV = model(input_ids=ids_NT[batch], use_cache=False).logits
        loss = functional.cross_entropy(
            logits_BTV[:, :-1].flatten(0, 1), labels_NT[batch][:, 1:].flatten(), ignore_index=-100
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.save_pretrained(folder)


def toy_settings(base: Path, seed: int, steps: int, **arm: object) -> TrainSettings:
    """Settings of the second stage: so many steps, however many rows an arm has."""
    settings = TrainSettings(
        base=str(base),
        seed=seed,
        max_length=64,
        control_weight=6.0,
        learning_rate=1e-3,
        schedule="linear",
        warmup=0.05,
        rows_per_device=BATCH,
        **arm,
    )
    count = len(taught_rows())
    if settings.twins is not None:
        count += len(make_twins(taught_rows(), single(), settings.twins, seed))
    return replace(settings, epochs=steps / -(-count // BATCH))


ARMS: Mapping[str, Mapping[str, object]] = {
    "ordinary rows": {},
    "opening_weight = 4": {"opening_weight": 4.0},
    "twins": {"twins": TwinSettings()},
    "twins, opening_weight = 4": {"twins": TwinSettings(), "opening_weight": 4.0},
}


def figures(
    model: Path, taxonomy: Taxonomy, groups: Mapping[str, Sequence[Example]], tokens: int
) -> Figures:
    """Read the groups of prompts with a model: the decision, and both forced texts of each.

    The refusal token of a row is its own category's, or the likeliest one.
    """
    engine = HfEngine(model=model, tokens=taxonomy.tokens, max_new_tokens=tokens, threads=1)
    judge, cells, refuse = PhraseJudge(), {}, {}
    scores: dict[bool, list[float]] = {True: [], False: []}
    for name, examples in groups.items():
        prompts = [e.prompt for e in examples]
        logp_NC = engine.logp(prompts)
        columns = [
            taxonomy.column(e.category) if e.category else 1 + int(logp_C[1:].argmax())
            for e, logp_C in zip(examples, logp_NC, strict=True)
        ]
        texts = engine.branches(prompts, [[column, 0] for column in columns])
        verdicts = [
            [
                judge.judge(e.text, answers[c].text, taxonomy.names[column - 1]).verdict
                for c in (column, 0)
            ]
            for e, answers, column in zip(examples, texts, columns, strict=True)
        ]
        units = RowUnits.of(len(examples))
        cells[name] = twins([v[0] for v in verdicts], [v[1] for v in verdicts], units)
        odds_N = np.logaddexp.reduce(logp_NC[:, 1:], axis=1) - logp_NC[:, 0]
        refuse[name] = float((1 / (1 + np.exp(-odds_N))).mean())
        for example, odds in zip(examples, odds_N, strict=True):
            scores[example.label is not None].append(float(odds))
    refused = [True] * len(scores[True]) + [False] * len(scores[False])
    decided = roc_auc_score(refused, [*scores[True], *scores[False]])
    return Figures(cells=cells, refuse=refuse, auroc=float(decided))


def print_figures(name: str, found: Sequence[Figures]) -> None:
    """One table row a group: cells over all models together, P(refuse) and AUROC as means."""
    score = np.mean([f.auroc for f in found])
    print(f"\n{name}: AUROC of the decision {score:.4f}")
    print("| prompts | n | controllable | stuck-refuse | stuck-answer | inverted | P(refuse) |")
    print("|---|---|---|---|---|---|---|")
    for group in found[0].cells:
        of = [f.cells[group] for f in found]
        rates = [
            sum(getattr(t, cell).hits for t in of) / sum(getattr(t, cell).of for t in of)
            for cell in ("controllable", "stuck_refuse", "stuck_answer", "inverted")
        ]
        shown = " | ".join(f"{rate:.2f}" for rate in rates)
        chance = np.mean([f.refuse[group] for f in found])
        n = sum(t.controllable.of for t in of)
        print(f"| {group} | {n} | {shown} | {chance:.3f} |")


def toy(given: argparse.Namespace) -> None:
    """Train every arm on every seed's base and print one table an arm."""
    found: dict[str, list[Figures]] = {name: [] for name in ARMS}
    start = time.process_time()
    for seed in range(given.seeds):
        with TemporaryDirectory() as work:
            make_prior(Path(work) / "base", seed)
            for n, (name, arm) in enumerate(ARMS.items()):
                settings = toy_settings(Path(work) / "base", seed, given.steps, **arm)
                out = Path(work) / str(n)
                SftTrainer(settings).train(taught_rows(), single(), out)
                found[name].append(figures(out / "model", single(), read_rows(), 24))
    print(f"{given.seeds} seeds, {given.steps} steps, {time.process_time() - start:.0f} CPU-s")
    for name, some in found.items():
        print_figures(name, some)


def train(given: argparse.Namespace) -> None:
    """Teach smollm2-135m its control tokens and print the figures of the training."""
    from midway import rows  # beside this file, whose directory is on the path of a program only

    arm = TwinSettings() if given.twins else None
    settings = replace(cpu(seed=given.seed), twins=arm, opening_weight=given.opening)
    examples = rows(given.rows_folder, "train", given.rows, given.seed)
    start = time.process_time()
    trained = SftTrainer(settings).train(examples, coconot(), given.out)
    assert trained is not None
    print(f"{len(examples)} rows, {trained.steps} steps, {time.process_time() - start:.0f} CPU-s")
    print(json.dumps({k: v for k, v in trained.details.items() if k != "base"}))
    for line in summary_lines(trained.details):
        print(line)


def measure(given: argparse.Namespace) -> None:
    """Read held-out rows with each model and print a table each, the first one the baseline."""
    from midway import rows  # as in `train`

    held = rows(given.rows_folder, "test", 10 * given.prompts, 1)
    groups = {
        group: [e for e in held if e.kind == kind][: given.prompts] for group, kind in KINDS.items()
    }
    for out in given.out:
        found = figures(out / "model", coconot(), groups, given.tokens)
        print_figures(out.name, [found])


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.set_defaults(run=toy, seeds=3, steps=120)
    verbs = parser.add_subparsers()
    one = verbs.add_parser("toy")
    one.add_argument("--seeds", type=int, default=3)
    one.add_argument("--steps", type=int, default=120)
    one.set_defaults(run=toy)
    one = verbs.add_parser("train")
    one.add_argument("rows_folder", type=Path)
    one.add_argument("out", type=Path)
    one.add_argument("--rows", type=int, default=1200)
    one.add_argument("--twins", action="store_true")
    one.add_argument("--opening", type=float, default=1.0)
    one.add_argument("--seed", type=int, default=0)
    one.set_defaults(run=train)
    one = verbs.add_parser("measure")
    one.add_argument("rows_folder", type=Path)
    one.add_argument("out", type=Path, nargs="+")
    one.add_argument("--prompts", type=int, default=80)
    one.add_argument("--tokens", type=int, default=48)
    one.set_defaults(run=measure)
    given = parser.parse_args()
    torch.set_num_threads(1)
    given.run(given)


if __name__ == "__main__":
    main()
