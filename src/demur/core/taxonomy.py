"""The taxonomy: control tokens and the categories that they stand for."""

from __future__ import annotations

from dataclasses import dataclass

from demur.base.errors import TaxonomyError
from demur.base.suggest import suggest

RESPOND = "respond"  # how the absence of a refusal is written in decisions, tables and files


@dataclass(frozen=True, kw_only=True, slots=True)
class Category:
    """A category: what one refusal token stands for."""

    name: str  # short, in files and on the command line: "safety"
    token: str  # the literal special token: "[Requests with safety concerns]"
    description: str  # plain words; the token's embedding row is initialised from them


@dataclass(frozen=True, kw_only=True, slots=True)
class Taxonomy:
    """The categories and their tokens. Column 0 of every score is `respond_token`, column k is
    categories[k - 1].

    Raises TaxonomyError when names or tokens repeat, are empty, or have outer white space.
    """

    name: str
    respond_token: str
    categories: tuple[Category, ...]

    def __post_init__(self) -> None:
        if not self.categories:
            raise TaxonomyError(
                f"taxonomy {self.name!r} has no category", "give at least one category"
            )
        # a name is a key of files and flags, a token one id of the tokenizer: both must be exact
        for what, values in (("category name", self.names), ("control token", self.tokens)):
            for value in values:
                if not value or value != value.strip():
                    raise TaxonomyError(
                        f"{what} {value!r} is empty or has outer white space", "trim it"
                    )
                if values.count(value) > 1:
                    raise TaxonomyError(
                        f"{what} {value!r} occurs {values.count(value)} times",
                        "make each one unique",
                    )
        if RESPOND in self.names:
            raise TaxonomyError(
                f"{RESPOND!r} is not a category: it names the answer token", "rename the category"
            )

    @property
    def names(self) -> tuple[str, ...]:
        """Category names, in token order."""
        return tuple(c.name for c in self.categories)

    @property
    def tokens(self) -> tuple[str, ...]:
        """All control tokens: the respond token first, then one per category."""
        return (self.respond_token, *(c.token for c in self.categories))

    @property
    def choices(self) -> tuple[str, ...]:
        """The names of a decision by column: "respond", then the category names."""
        return (RESPOND, *self.names)

    def index(self, category: str) -> int:
        """Position of a category, from 0. Raises TaxonomyError, with a suggestion, if unknown."""
        if category in self.names:
            return self.names.index(category)
        raise TaxonomyError(
            f"unknown category {category!r} in taxonomy {self.name!r}",
            suggest(category, self.names),
        )

    def column(self, category: str | None) -> int:
        """Column of a score: 0 for None or "respond", k for the k-th category."""
        return 0 if category in (None, RESPOND) else self.index(str(category)) + 1


def single() -> Taxonomy:
    """One refusal token for everything (arXiv 2412.06748)."""
    refuse = Category(name="refuse", token="[refuse]", description="Decline the request.")
    return Taxonomy(name="single", respond_token="[respond]", categories=(refuse,))


# Token spellings as published with arXiv 2412.06748; the names are CoCoNot's five categories of
# noncompliance.
_COCONOT = (
    (
        "humanizing",
        "[Humanizing requests]",
        "Treats the assistant as a person with a body, feelings or a life.",
    ),
    (
        "incomplete",
        "[Incomplete requests]",
        "Lacks needed information, rests on a false premise or makes no sense.",
    ),
    (
        "indeterminate",
        "[Indeterminate requests]",
        "Has no known or no single right answer; tastes differ.",
    ),
    (
        "safety",
        "[Requests with safety concerns]",
        "Asks for something harmful, dangerous, private or illegal.",
    ),
    (
        "unsupported",
        "[Unsupported requests]",
        "Needs images, sound, live data, actions or great length.",
    ),
)


def coconot() -> Taxonomy:
    """CoCoNot's five categories with the token strings published for refusal tokens."""
    categories = tuple(Category(name=n, token=t, description=d) for n, t, d in _COCONOT)
    return Taxonomy(name="coconot", respond_token="[respond]", categories=categories)


PRESETS = {"single": single, "coconot": coconot}


def preset(name: str) -> Taxonomy:
    """A built-in taxonomy by name. Raises TaxonomyError if there is none of that name."""
    if name not in PRESETS:
        raise TaxonomyError(
            f"unknown taxonomy {name!r}",
            f"built in: {', '.join(PRESETS)}; or give your own as TOML",
        )
    return PRESETS[name]()
