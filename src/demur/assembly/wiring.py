"""Names of sources, engines, backends and judges, and the import of what they name.

A name that is not in a table may be "package.module:Class", such as "acme.tgi:TgiScorer". No other
module imports by name.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from typing import Any

from demur.base.errors import ConfigError, MissingDependency
from demur.base.suggest import suggest

SOURCES = {
    "builtin": "demur.sources.corpus:BuiltinSource",
    "files": "demur.sources.files:FileSource",
    "jsonl": "demur.sources.files:FileSource",  # the older name
    "hub": "demur.sources.hub:HubSource",
}
ENGINES = {
    "hf": "demur.engines.hf.engine:HfEngine",
    "fake": "demur.engines.fake.engine:FakeEngine",
    "vllm": "demur.engines.vllm.engine:VllmEngine",
    "prompts": "demur.engines.prompt_scorer:PromptScorer",
    "guard-chat": "demur.engines.remote.guard_chat:ChatGuard",
    "guard-hf": "demur.engines.hf.guard:HfGuard",
}
BACKENDS = {
    "hf": "demur.engines.inprocess.backend:HfBackend",
    "vllm": "demur.engines.vllm.plugin_backend:PluginBackend",
    "gateway": "demur.engines.vllm.two_call_backend:TwoCallBackend",
    "openai": "demur.engines.remote.chat_backend:OpenAiBackend",
    "gate": "demur.engines.remote.pre_answer:PreAnswerBackend",
    "fake": "demur.engines.fake.backend:FakeBackend",
}
JUDGES = {
    "phrases": "demur.judges.phrases:PhraseJudge",
    "trained": "demur.judges.trained:TrainedJudge",
    "llm": "demur.judges.rubric:RubricJudge",
    "wildguard": "demur.judges.wildguard:WildGuardJudge",
}

# by package: the extra of demur that installs it
_EXTRAS = {
    "torch": "hf",
    "transformers": "hf",
    "trl": "hf",
    "peft": "hf",
    "accelerate": "hf",
    "tokenizers": "hf",
    "safetensors": "hf",
    "datasets": "hub",
    "fastapi": "serve",
    "uvicorn": "serve",
    "prometheus_client": "serve",
    "httpx": "gateway",
    "llguidance": "json",
    "vllm": "vllm",
}


def import_by_name(name: str, known: Mapping[str, str], what: str) -> Any:
    """Import the class (or function) behind a name of `known`, or behind "package.module:Class".

    what: the kind of part, for errors. Raises ConfigError for an unknown name, with a suggestion,
    and MissingDependency if the part needs a package that is not installed. A package that is
    installed but broken raises its own error.
    """
    target = known.get(name, name)
    module, colon, attribute = target.partition(":")
    if not colon:
        hint = suggest(name, known, f"known: {', '.join(known)}; or 'package.module:Class'")
        raise ConfigError(f"unknown {what} {name!r}", hint)
    try:
        with explain_missing_extra(f"{what} {name!r}"):
            return getattr(import_module(module), attribute)
    except ModuleNotFoundError as e:
        # the named module itself is missing, or a package on the way to it
        if e.name and module.startswith(e.name):
            raise ConfigError(
                f"{what} {name!r}: there is no module {e.name!r}", "check the spelling"
            ) from None
        raise
    except AttributeError:
        raise ConfigError(
            f"{what} {name!r}: module {module!r} has no {attribute!r}", "export the class there"
        ) from None


@contextmanager
def explain_missing_extra(what: str) -> Iterator[None]:
    """Turn a missing package, imported in the context, into MissingDependency naming its extra.

    what: what needs it, as the subject of the message.
    """
    try:
        yield
    except ModuleNotFoundError as e:
        missing = (e.name or "").partition(".")[0]
        if missing not in _EXTRAS:
            raise
        raise MissingDependency(
            f"{what} needs {missing}", f"pip install 'demur[{_EXTRAS[missing]}]'"
        ) from None
