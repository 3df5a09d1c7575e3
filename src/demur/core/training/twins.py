"""Counterfactual twins, [train.twins]: their settings, and the draws of their texts. Pure.

Ordinary rows show each prompt behind one control token, so a text can follow the prompt alone and
ignore the token. A twin row shows the prompt behind another token, with a text that keeps that
token's word.

1. A row that is to be answered and has a reply may have a twin, whether it is benign or contrast.
   The row itself is the answering half, `[respond] reply`; the twin is `[refusal token] refusal`.
2. The twin's control token is read and never a target: it contradicts the row's label, and would
   teach the decision the wrong way.
3. A row that is to be refused has no twin, whatever its category: nobody writes an answer to it. It
   lends its reply as a refusal text to twins of its category.

Every draw depends on the seed and the row's id alone.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from demur.base.errors import ConfigError
from demur.core.example import Example, Message
from demur.core.rows.splitting import seeded, uniform_hash
from demur.core.taxonomy import Taxonomy


@dataclass(frozen=True, kw_only=True, slots=True)
class TwinSettings:
    """Settings of twin rows. Raises ConfigError on a number out of range or an empty text."""

    share: float = 0.5  # of the rows to be answered that have a reply: these have a twin
    # of the text that are learnt, on both sides of the pair: there a text keeps its token's word
    # or breaks it
    tokens: int = 16
    # category -> refusal texts of the operator's own; of other categories training rows lend theirs
    texts: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not 0.0 < self.share <= 1.0:
            raise ConfigError(
                f"train.twins.share = {self.share} is not in (0, 1]",
                "correct it, or leave [train.twins] out",
            )
        if self.tokens < 1:
            raise ConfigError(f"train.twins.tokens = {self.tokens} is below 1", "8 to 16 are usual")
        for name, texts in self.texts.items():
            if not texts or not all(text.strip() for text in texts):
                raise ConfigError(
                    f"train.twins.texts.{name} = {list(texts)} has no text, or an empty one",
                    "give one refusal or more, or leave the category out",
                )


@dataclass(frozen=True, kw_only=True, slots=True)
class Twin:
    """A row to be answered, and a refusal that is forced onto its prompt."""

    example: Example
    category: str  # of the refusal token
    text: str

    @property
    def messages(self) -> tuple[Message, ...]:
        """The row's prompt with the refusal as its reply."""
        return (*self.example.prompt, Message(role="assistant", content=self.text))


def has_twin(row: Example, settings: TwinSettings | None, seed: int) -> bool:
    """Whether a row has a twin: to be answered, not said otherwise, with a reply, and drawn."""
    return (
        settings is not None
        and row.expected == "respond"
        and "rewrite" not in dict(row.traits)
        and bool((row.reply or "").strip())
        and uniform_hash(seed, f"twin:{row.id}") < settings.share
    )


def make_twins(
    examples: Sequence[Example], taxonomy: Taxonomy, settings: TwinSettings, seed: int
) -> list[Twin]:
    """The twins of the rows that training learns from.

    A contrast row's twin refuses with the category that the row resembles, any other row's with a
    drawn one. Of several texts one of the row's own group is taken first: it speaks of the same
    subject. Raises ConfigError if a category has no text or no row has a twin, and TaxonomyError on
    texts of an unknown category.
    """
    by_category = _texts(examples, taxonomy, settings)
    twins = []
    for row in examples:
        if not has_twin(row, settings, seed):
            continue
        category = row.category if row.category in taxonomy.names else None
        category = category or seeded(seed, f"twin category:{row.id}").choice(taxonomy.names)
        texts = by_category[category]
        near = [t for t in texts if row.group is not None and t.group == row.group]
        chosen = seeded(seed, f"twin text:{row.id}").choice(near or texts)
        twins.append(Twin(example=row, category=category, text=chosen.text))
    if not twins:
        answered = [e for e in examples if e.expected == "respond"]
        raise ConfigError(
            f"train.twins: of {len(answered)} training rows to be answered "
            f"{sum(bool((e.reply or '').strip()) for e in answered)} have a reply, and none has a "
            f"twin at share {settings.share}",
            "a twin needs a row with a reply: add replies, or raise train.twins.share",
        )
    return twins


@dataclass(frozen=True, kw_only=True, slots=True)
class _RefusalText:
    """A refusal text, and the group of the row that lent it; None: of a row without one, or the
    operator's.
    """

    text: str
    group: str | None = None


def _texts(
    examples: Sequence[Example], taxonomy: Taxonomy, settings: TwinSettings
) -> dict[str, list[_RefusalText]]:
    """Refusal texts by category: the operator's, else those of training rows, in order of id."""
    found: dict[str, list[_RefusalText]] = defaultdict(list)
    for name, texts in settings.texts.items():
        taxonomy.index(name)
        found[name] = [_RefusalText(text=text) for text in texts]
    lent = [e for e in examples if e.label is not None and e.label not in settings.texts]
    for row in sorted(lent, key=lambda e: e.id):
        reply = (row.reply or "").strip()
        if reply and "rewrite" not in dict(row.traits):
            found[str(row.label)].append(_RefusalText(text=reply, group=row.group))
    if missing := [name for name in taxonomy.names if name not in found]:
        raise ConfigError(
            f"train.twins: no refusal text for {', '.join(missing)}: no training row that is "
            "refused with it has a reply",
            f'give one: [train.twins.texts] {missing[0]} = ["..."]',
        )
    return dict(found)
