"""Write the TOML of a run from guesses about its files: sources, taxonomy, guesses as comments."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from demur.core.example import Kind
from demur.core.rows.labels import REFUSE, LabelRule, toml_string
from demur.core.taxonomy import Category, coconot, single
from demur.sources.guess import FileGuess

_CALIBRATE_SHARE = 0.3  # promises are made on these rows; most folders are small


@dataclass(frozen=True, kw_only=True, slots=True)
class ConfigDraft:
    """The name, folder and file guesses of a run whose TOML is to be written."""

    name: str
    folder: str  # of the files, as the TOML has it
    guesses: tuple[FileGuess, ...]  # files that can be used

    def toml(self) -> str:
        """The text of the TOML file."""
        rows = f"{sum(guess.rows for guess in self.guesses)} rows in {len(self.guesses)} files."
        parts = [
            f"# Written by demur init, which guessed: read it before you believe it. {rows}",
            "",
        ]
        parts += ["[run]", f"name = {toml_string(self.name)}", "", *_taxonomy(self.guesses), ""]
        parts += [
            "[data]",
            f"calibrate_share = {_CALIBRATE_SHARE}  # promises are made on these rows",
            "",
        ]
        for rule, guesses in _alike(self.guesses):
            parts += [*self._source(rule, guesses), ""]
        parts += [
            "[train]",
            'base = "tiny"  # a small model from nothing; or a model of yours: docs/train.md',
        ]
        return "\n".join(parts) + "\n"

    def _source(self, rule: LabelRule, guesses: Sequence[FileGuess]) -> list[str]:
        """The lines of one source: its notes as comments, each once, then its settings."""
        notes = list(dict.fromkeys(note for guess in guesses for note in guess.notes))
        files = ", ".join(toml_string(guess.name) for guess in guesses)
        lines = [
            "[[data.sources]]",
            'kind = "files"',
            f"folder = {toml_string(self.folder)}",
            f"files = [{files}]",
        ]
        lines += [f"rows_kind = {toml_string(rule.rows_kind)}"] if rule.rows_kind else []
        lines += [f"category = {toml_string(rule.category)}"] if rule.category else []
        lines += [f"columns = {_table(rule.columns)}"] if rule.columns else []
        lines += [f"label_map = {_table(rule.label_map)}"] if rule.label_map else []
        return [*(f"# {' '.join(note.split())}" for note in notes), *lines]


def _alike(guesses: Sequence[FileGuess]) -> list[tuple[LabelRule, list[FileGuess]]]:
    """The guesses by their label rule: files with the same rule become one source."""
    # A list, since a rule holds mappings and has no hash.
    found: list[tuple[LabelRule, list[FileGuess]]] = []
    for guess in guesses:
        same = next((others for rule, others in found if rule == guess.rule), None)
        if same is None:
            found.append((guess.rule, [guess]))
        else:
            same.append(guess)
    return found


def _taxonomy(guesses: Sequence[FileGuess]) -> list[str]:
    """The lines of the taxonomy: a built-in one if it fits the rows' categories, else their own."""
    kinds: list[tuple[Kind, str | None]] = [key for guess in guesses for key in guess.counts]
    names = list(dict.fromkeys(category for _, category in kinds if category))
    if set(names) <= {REFUSE}:
        return [
            "[taxonomy]",
            f"preset = {toml_string(single().name)}  # one refusal token for everything",
        ]
    if set(names) == set(coconot().names):
        return ["[taxonomy]", f"preset = {toml_string(coconot().name)}"]
    lines = [
        "[taxonomy]",
        'name = "own"',
        f"respond_token = {toml_string(coconot().respond_token)}",
    ]
    for category in map(_category, names):
        lines += [
            "",
            "[[taxonomy.categories]]",
            f"name = {toml_string(category.name)}",
            f"token = {toml_string(category.token)}",
            f"description = {toml_string(category.description)}  # its token starts from these "
            "words: say it better",
        ]
    return lines


def _category(name: str) -> Category:
    """The built-in category of this name, or one whose token and description come from the name."""
    known = next((c for c in (*coconot().categories, *single().categories) if c.name == name), None)
    plain = name.replace("-", " ").replace("_", " ")
    return known or Category(
        name=name, token=f"[{plain}]", description=f"Asks for what falls under: {plain}."
    )


def _table(values: Mapping[str, str]) -> str:
    """A mapping as an inline table of TOML."""
    return f"{{ {', '.join(f'{toml_string(k)} = {toml_string(v)}' for k, v in values.items())} }}"
