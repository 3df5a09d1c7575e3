"""Judges by name, with settings from the sections [llm], [trained], [wildguard] of a TOML file.

[llm]        url, model, key_variable, in_flight, most_calls, ...: demur.engines.remote.chat_client;
             rubric (a name or a TOML file), labels (their file), control_tokens, most_chars
[trained]    model: the file of `demur judge train`; force: also answers unlike the training's
[wildguard]  model, batch, max_new_tokens, dtype, device, and template: a file
[attacker]   a model that attacks (demur attack): as [llm], without rubric and labels
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from demur.assembly.config import override
from demur.assembly.endpoints import chat_client
from demur.assembly.wiring import JUDGES, explain_missing_extra, import_by_name
from demur.base.boundary import read_toml
from demur.base.errors import ConfigError
from demur.base.text import read_text
from demur.core.ports import Judge
from demur.core.taxonomy import coconot, single
from demur.store.answers.label_store import LabelFile
from demur.store.models.encoded_model_file import is_encoded, read_encoded
from demur.store.models.text_model_file import read_text_classifier

if TYPE_CHECKING:
    from demur.engines.hf.encoder import HfEncoder

SECTIONS = ("llm", "trained", "wildguard", "attacker")


@dataclass(frozen=True, kw_only=True, slots=True)
class JudgeSettings:
    """The settings of judges, as the user wrote them."""

    table: Mapping[str, Any]
    base: Path  # folder that relative paths start from
    where: str  # for errors
    labels: Path  # where an LLM's labels are kept unless the settings say
    tokens: tuple[str, ...] = ()  # control tokens of the model under test, beside the built-in ones

    def section(self, name: str) -> dict[str, Any]:
        """Return a copy of one section; empty if there is none."""
        return dict(self.table.get(name, {}))

    def path(self, value: str) -> Path:
        """Resolve a path of the settings."""
        return self.base / value


def read_judge_settings(file: Path | None, overrides: Sequence[str], labels: Path) -> JudgeSettings:
    """Read a TOML file, with overrides such as "llm.model=...".

    labels: default file of an LLM's labels. Raises ConfigError naming file and key.
    """
    table: dict[str, Any] = read_toml(file) if file else {}
    for text in overrides:
        override(table, text)
    where = str(file) if file else "--set"
    unknown = sorted(set(table) - set(SECTIONS))
    if unknown:
        raise ConfigError(
            f"{where}: unknown section {unknown[0]!r}", f"sections: {', '.join(SECTIONS)}"
        )
    return JudgeSettings(
        table=table, base=file.parent if file else Path(), where=where, labels=labels
    )


# returns lines on what a judge has cost so far; none if it costs nothing
CostReport = Callable[[], list[str]]


def build_judge(name: str, settings: JudgeSettings) -> tuple[Judge, CostReport]:
    """Make a judge, and a function that reports its costs.

    name: of demur.assembly.wiring.JUDGES, or "package.module:Class". Raises ConfigError for an
    unknown name or a wrong setting.
    """
    kind = import_by_name(name, JUDGES, "judge")
    builders = {"llm": _llm, "trained": _trained, "wildguard": _wildguard}
    if name not in builders:
        return kind(), list
    return builders[name](kind, settings)


def _llm(kind: Any, settings: JudgeSettings) -> tuple[Judge, CostReport]:
    """Make a rubric judge; keys of [llm] that are not the judge's own are its endpoint's."""
    from demur.judges.rubric import Wording, builtin_rubric, rubric_from

    section = settings.section("llm")
    wording: dict[str, Any] = {}
    rubric = str(section.pop("rubric", "coconot"))
    if rubric.endswith(".toml"):
        own = settings.path(rubric)
        wording["rubric"] = rubric_from(read_toml(own), str(own))
    else:
        wording["rubric"] = builtin_rubric(rubric)
    # Control tokens that an answer may begin with are hidden from the judge: a dict keeps each
    # once, in order.
    tokens = dict.fromkeys((*coconot().tokens, *single().tokens, *settings.tokens))
    wording["control_tokens"] = tuple(section.pop("control_tokens", tokens))
    if "most_chars" in section:
        wording["most_chars"] = section.pop("most_chars")
    labels = settings.path(str(section.pop("labels"))) if "labels" in section else settings.labels
    chat = chat_client(section, f"{settings.where}: [llm]")
    return kind(chat=chat, store=LabelFile(labels), wording=Wording(**wording)), lambda: cost_lines(
        chat
    )


def cost_lines(chat: Any) -> list[str]:
    """Return lines on a chat client: fields that its endpoint renames, then calls and tokens."""
    s, endpoint = chat.spent, chat.endpoint
    price = (
        f", {s.price(endpoint):.4f} in your currency"
        if endpoint.price_in or endpoint.price_out
        else ""
    )
    words = chat.dialect.description
    renamed = [f"the endpoint takes other fields than the usual: {words}"] if words else []
    return [
        *renamed,
        f"{s.calls} calls ({s.retries} of them retries), {s.failed + s.declined} questions "
        f"without an answer, {s.prompt_tokens} + {s.completion_tokens} tokens{price}; at most "
        f"{s.most_in_flight} at a time",
    ]


def _trained(kind: Any, settings: JudgeSettings) -> tuple[Judge, CostReport]:
    """Make a trained judge; its file says whether it reads words or an encoder's vectors."""
    section = settings.section("trained")
    _require_known_keys(section, ("model", "force"), f"{settings.where}: [trained]")
    if "model" not in section:
        raise ConfigError(
            "the trained judge needs its model",
            "demur judge train makes one; then --set trained.model=FILE",
        )
    file = settings.path(str(section["model"]))
    classifier: Any
    if is_encoded(file):
        classifier, digest = read_encoded(file, open_encoder)
    else:
        classifier, digest = read_text_classifier(file)
    return kind(classifier=classifier, digest=digest, force=bool(section.get("force", False))), list


def open_encoder(model: str) -> HfEncoder:
    """Open the encoder of a trained judge. model: a checkpoint folder or a Hugging Face name.

    Raises MissingDependency without the packages it needs.
    """
    with explain_missing_extra("a judge's encoder"):
        from demur.engines.hf.encoder import HfEncoder

    return HfEncoder(model=model)


def _wildguard(kind: Any, settings: JudgeSettings) -> tuple[Judge, CostReport]:
    """Make a WildGuard judge; its keys are the fields of HfCompleter, and `template`."""
    section = settings.section("wildguard")
    template = section.pop("template", None)
    with explain_missing_extra("judge 'wildguard'"):
        from demur.engines.hf.complete import HfCompleter

    _require_known_keys(
        section, [f.name for f in fields(HfCompleter) if f.init], f"{settings.where}: [wildguard]"
    )
    if "model" not in section:
        raise ConfigError("the wildguard judge needs its model", "--set wildguard.model=FOLDER")
    given = {"template": read_text(settings.path(str(template)), ConfigError)} if template else {}
    return kind(completer=HfCompleter(**section), **given), list


def _require_known_keys(section: Mapping[str, Any], known: Sequence[str], where: str) -> None:
    """Raise ConfigError for the first unknown key of a section."""
    unknown = sorted(set(section) - set(known))
    if unknown:
        raise ConfigError(f"{where}: unknown key {unknown[0]!r}", f"known keys: {', '.join(known)}")
