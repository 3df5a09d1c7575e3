"""The settings of a training, [train] in a run's TOML file, and the recipes that give their
defaults.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

from demur.base.errors import ConfigError
from demur.core.example import RewriteName
from demur.core.training.turn_back import TurnBack
from demur.core.training.twins import TwinSettings

Balance = Literal["none", "category", "class", "source"]
WHOLE_ANSWER = 1_000_000  # answer_tokens: more than any answer has


POSITIVE = (
    "epochs",
    "max_length",
    "answer_tokens",
    "control_weight",
    "refusal_weight",
    "opening_weight",
    "opening_tokens",
    "learning_rate",
    "save_every",
    "evaluate_every",
    "patience",
)
# settings that are at least 0 and below a bound
BELOW = (
    ("answer_weight", float("inf")),
    ("warmup", 1.0),
    ("prompt_noise", 1.0),
    ("rewritten_share", 1.0),
    ("frozen_share", 1.0),
    ("control_smoothing", 1.0),
    ("validation_share", 1.0),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainSettings:
    """Settings of one training. The defaults fine-tune a base model on a GPU; see `tiny()` and
    `cpu()` for others.

    Raises ConfigError when two settings contradict each other.
    """

    recipe: Literal["none", "cpu"] = "none"  # what settings that nobody gives are: see `defaults`
    base: str = (
        # "tiny": a small Llama from nothing; "smollm2-135m": from a package; a folder, .gguf or Hub
        # name
        "tiny"
    )
    # None or "own": the base model's own; "bare": that without the system prompt that it puts in
    # front by itself; "turns", "chatml": plain ones of ours; else Jinja
    chat_template: str | None = None
    seed: int = 0
    epochs: float = 1.0
    max_length: int = 2048  # tokens; longer rows are left out, and counted
    answer_tokens: int = WHOLE_ANSWER  # the loss counts on so many tokens of each answer
    control_weight: float = 1.0  # of a control token in the loss
    # times control_weight, of a refusal token: shifts the natural decision by its log
    refusal_weight: float = 1.0
    answer_weight: float = 1.0  # of any other answer token
    # times answer_weight, of the first opening_tokens behind a control token: there a text keeps
    # its token's word or breaks it
    opening_weight: float = 1.0
    opening_tokens: int = 16
    # what weighs alike in the loss of the control token: see core.training.balance
    balance: Balance = "none"
    control_smoothing: float = 0.0  # of a control token's target, spread over all of them
    # of the rows with a reply: these learn it, the others end at their control token
    reply_share: float = 1.0
    # share of prompt tokens replaced at random each epoch (word dropout); needs batch_tokens
    prompt_noise: float = 0.0
    # rows that are learnt once more, said otherwise: see core.rows.rewrites
    rewrites: tuple[RewriteName, ...] = ()
    rewritten_share: float = 0.0  # so many of them, for each row; half of them refusals; 0: none
    # rows that teach to refuse in mid-answer, [train.turn_back]; None: none
    turn_back: TurnBack | None = None
    # rows that teach texts to follow their control token, [train.twins]; None: none
    twins: TwinSettings | None = None
    # muon: torch.optim.Muon on matrices, AdamW on the rest
    optimizer: Literal["adamw", "muon"] = "adamw"
    learning_rate: float = 2e-5  # of AdamW
    matrix_learning_rate: float = 0.02  # of Muon
    weight_decay: float = 0.0
    schedule: Literal["linear", "cosine"] = "cosine"
    warmup: float = 0.1  # share of all steps
    # tokens per optimizer step, all processes together; None: fixed rows per batch
    batch_tokens: int | None = None
    rows_per_device: int = 16  # without batch_tokens
    accumulate: int = 1  # batches per optimizer step, without batch_tokens
    packing: bool = False  # several rows in one sequence, attention kept within each
    gradient_checkpointing: bool = False
    dtype: Literal["float32", "bfloat16"] = "float32"  # of the weights
    # of the arithmetic; auto: bfloat16 where the machine has it
    autocast: Literal["no", "bfloat16", "auto"] = "no"
    # Of the weights in the model folder, and so of what scores and serves: half the memory, twice
    # as fast where the machine multiplies bfloat16. auto: bfloat16 there. None: as they were
    # trained.
    saved_dtype: Literal["float32", "bfloat16", "auto"] | None = None
    lora_rank: int = 0  # 0: full training
    lora_alpha: int = 16
    lora_dropout: float = 0.05
    # Of a reasoning model: where its control token stands. template: where its own template has it;
    # none: after an empty thought; before: in front of any. The template that is saved with the
    # model has it there.
    thought: Literal["template", "none", "before"] = "template"
    # Of the head: at the mean row of the category's description, or at a linear probe; probe needs
    # frozen_share
    control_start: Literal["words", "probe"] = "words"
    # of the layers, from below, that stay as they are and are read once; needs batch_tokens
    frozen_share: float = 0.0
    # of the rows, whole groups, that choose when to stop and are never learnt; 0: none
    validation_share: float = 0.0
    evaluate_every: int = 50  # optimizer steps between measurements on the validation rows
    # measurements without gain after which training stops; the best weights are put back
    patience: int = 3
    # past assistant turns carry their control token, in training and in service
    keep_history: bool = True
    save_every: int = 200  # optimizer steps between checkpoints
    # rows, records or models that the base was trained on elsewhere: see store.seen_file
    seen: tuple[Path, ...] = ()
    processes: int | None = None  # how many must take part; None: as many as the launcher started
    tiny_width: int = 192
    tiny_layers: int = 3
    tiny_heads: int = 4
    tiny_vocabulary: int = 4096

    def __post_init__(self) -> None:
        self._check_batches()
        self._check_frozen()
        if bool(self.rewrites) != bool(self.rewritten_share):
            raise ConfigError(
                f"train.rewrites = {list(self.rewrites)} and train.rewritten_share = "
                f"{self.rewritten_share}",
                "set both, or neither",
            )
        if self.lora_rank:
            self._check_adapters()
        if self.turn_back is not None:
            self._check_turn_back(self.turn_back)
        if self.twins is not None:
            self._check_twins(self.twins)
        if self.base == "tiny" and self.recipe != "none":
            raise ConfigError(
                f"train.recipe = {self.recipe!r} fine-tunes a base model, and train.base = 'tiny' "
                "starts from nothing",
                "give another base, or leave recipe out: tiny has a recipe of its own",
            )
        self._check_ranges()

    def _check_batches(self) -> None:
        """Raise ConfigError on two ways to fill a batch, or on what one of them cannot do."""
        if self.packing and self.batch_tokens is not None:
            raise ConfigError(
                "train.packing and train.batch_tokens are both set",
                "choose one way to fill a batch",
            )
        if self.prompt_noise and self.batch_tokens is None:
            raise ConfigError(
                "train.prompt_noise without train.batch_tokens",
                "set batch_tokens, or prompt_noise = 0",
            )
        if self.packing and self.balance != "none":
            raise ConfigError(
                f"train.packing and train.balance = {self.balance!r} are both set",
                "packed rows have no weights of their own: set batch_tokens in place of packing",
            )

    def _check_ranges(self) -> None:
        """Raise ConfigError on a number outside its range."""
        for name in POSITIVE:
            if not getattr(self, name) > 0:
                raise ConfigError(
                    f"train.{name} = {getattr(self, name)} must be above 0", "correct it"
                )
        for name, high in BELOW:
            if not 0 <= getattr(self, name) < high:
                raise ConfigError(
                    f"train.{name} = {getattr(self, name)} is not in [0, {high})", "correct it"
                )
        if not 0 <= self.reply_share <= 1:
            raise ConfigError(
                f"train.reply_share = {self.reply_share} is not in [0, 1]", "correct it"
            )

    def _check_frozen(self) -> None:
        """Raise ConfigError where frozen layers meet a setting that they exclude, or one needs
        them.
        """
        if self.frozen_share and (self.batch_tokens is None or self.lora_rank or self.prompt_noise):
            raise ConfigError(
                f"train.frozen_share = {self.frozen_share} needs batch_tokens, and neither LoRA "
                "nor prompt_noise",
                "frozen layers are read once: set frozen_share = 0, or leave out what changes "
                "what they read",
            )
        if self.control_start == "probe" and not self.frozen_share:
            raise ConfigError(
                "train.control_start = 'probe' without train.frozen_share",
                "set frozen_share: the probe reads states that are kept, and the output head is "
                "its own",
            )

    def _check_turn_back(self, turn_back: TurnBack) -> None:
        """Raise ConfigError where turning back meets a setting that it cannot be learnt with."""
        if self.packing:
            raise ConfigError(
                "train.packing and train.turn_back are both set",
                "packed rows have no weights of their own: set batch_tokens in place of packing",
            )
        if turn_back.most_tokens >= self.max_length:
            raise ConfigError(
                f"train.turn_back.most_tokens = {turn_back.most_tokens} is not below "
                f"train.max_length = {self.max_length}",
                "a row holds a prompt and the prefix: lower most_tokens, or raise max_length",
            )
        if turn_back.prefixes == "harvest" and self.base == "tiny":
            raise ConfigError(
                "train.turn_back.prefixes = 'harvest', and train.base = 'tiny' starts from "
                "nothing: it writes no answers that could be harvested",
                "name a base model, or a file of prefixes",
            )

    def _check_twins(self, twins: TwinSettings) -> None:
        """Raise ConfigError where twins meet a setting that they cannot be learnt with."""
        if self.packing:
            raise ConfigError(
                "train.packing and train.twins are both set",
                "in a packed sequence a twin's text is not told from ordinary ones: set "
                "batch_tokens in place of packing",
            )
        if twins.tokens >= self.max_length:
            raise ConfigError(
                f"train.twins.tokens = {twins.tokens} is not below train.max_length = "
                f"{self.max_length}",
                "a row holds a prompt and the text: lower tokens, or raise max_length",
            )

    def _check_adapters(self) -> None:
        if self.saved_dtype is not None:
            raise ConfigError(
                "train.saved_dtype with LoRA adapters", "set train.dtype, or leave saved_dtype out"
            )
        if self.optimizer == "muon":
            raise ConfigError(
                "train.optimizer = 'muon' with LoRA adapters", "use adamw, or lora_rank = 0"
            )
        if self.base == "tiny":
            raise ConfigError(
                "train.base = 'tiny' starts from nothing: adapters cannot learn it",
                "set lora_rank = 0",
            )


def learnt(settings: TrainSettings) -> dict[str, Any]:
    """The settings that change what is learnt: what receipts and the names of checkpoints hold.

    Settings that came later are left out at their default, so that runs of before stay finished.
    """
    plain = asdict(settings)
    # a recipe's numbers stand there one by one
    for how in ("processes", "save_every", "seen", "recipe"):
        del plain[how]
    usual = {f.name: f.default for f in fields(settings)}
    for name in _LATER:
        if plain[name] == usual[name]:
            del plain[name]
    if settings.turn_back is not None:
        _without_places(plain["turn_back"])
    return plain


def _without_places(turn_back: dict[str, Any]) -> None:
    """Leave out where a file lies, whose digest receipts hold, and what changes no weights."""
    del turn_back["keep_text"]
    if isinstance(turn_back["prefixes"], Path):
        turn_back["prefixes"] = "file"


_LATER = (  # settings that receipts of before do not hold
    "rewrites",
    "rewritten_share",
    "turn_back",
    "twins",
    "opening_weight",
    "opening_tokens",
    "thought",
    "frozen_share",
    "control_start",
    "reply_share",
    "balance",
    "control_smoothing",
    "validation_share",
    "evaluate_every",
    "patience",
    "saved_dtype",
)


def defaults(base: str | None, recipe: str | None) -> TrainSettings:
    """The default settings: of the from-scratch recipe, of the recipe asked for, or of a
    fine-tuning.

    base, recipe: as the user gave them; None where absent. Without both a model is trained from
    nothing.
    """
    if base == "tiny" or (base is None and recipe in (None, "none")):
        return tiny()
    return cpu() if recipe == "cpu" else TrainSettings(base=str(base))


def tiny(*, seed: int = 0, epochs: float = 2.75) -> TrainSettings:
    """The from-scratch recipe, about four CPU-minutes on 20,000 rows (docs/benchmarks.md)."""
    return TrainSettings(
        base="tiny",
        seed=seed,
        epochs=epochs,
        max_length=512,
        # how refusals begin; longer answers crowd out the decision, see docs/train.md to learn
        # texts
        answer_tokens=8,
        control_weight=10.0,
        # raises F1 of the natural decision on the validation rows, docs/benchmarks.md
        refusal_weight=2.0,
        answer_weight=0.5,
        optimizer="muon",
        learning_rate=2e-3,
        weight_decay=0.1,
        schedule="linear",
        warmup=0.03,
        batch_tokens=1024,
    )


def cpu(*, seed: int = 0) -> TrainSettings:
    """The recipe for small machines: a pretrained model whose upper layers learn above kept
    states.
    """
    return TrainSettings(
        recipe="cpu",
        base="smollm2-135m",
        chat_template="bare",  # a default system prompt is a third of all tokens of short prompts
        seed=seed,
        epochs=1.5,
        max_length=512,
        answer_tokens=32,
        control_weight=6.0,
        answer_weight=0.3,
        reply_share=0.2,
        learning_rate=2e-4,
        schedule="linear",
        warmup=0.06,
        batch_tokens=512,
        frozen_share=0.4,  # more learn faster and decide worse: docs/benchmarks.md
        control_start="probe",
        validation_share=0.03,
        evaluate_every=150,
        autocast="auto",
    )
