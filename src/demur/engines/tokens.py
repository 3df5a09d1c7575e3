"""Control tokens in a tokenizer, and prompts in which nobody but us can write one.

Every control token is proved to be exactly one special id that survives a round trip. Conversations
are rendered with the model's own chat template, but text that came from people never meets the
tokenizer's special-token matching: each added token spelled out in it is replaced by a random
marker before rendering and encoded letter by letter afterwards (demur.engines.turn_tokens: also
where the tokenizer would make such a token of other letters). Where a template knows no system
role, or wants turns to alternate, the conversation is folded first
(demur.core.conversation.folding).
"""

from __future__ import annotations

import hashlib
import json
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from jinja2 import TemplateError
from tokenizers.normalizers import NFC, NFKC
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from demur.base.errors import EngineError
from demur.core.conversation.folding import fold
from demur.core.example import Message
from demur.core.taxonomy import Taxonomy
from demur.engines.bare_template import bare
from demur.engines.turn_tokens import Piece, TurnTokens

# one pattern for every nonce: compiling one each would double the work
MARK = re.compile(r"([0-9a-f]{16})x(\d+)x")
RESERVED = re.compile(r"<\|?(reserved_special_token_|unused|extra_id_|reserved_)\d+\|?>")


@dataclass(frozen=True, kw_only=True, slots=True)
class Turn:
    """Where one assistant turn lies in an encoded conversation."""

    control_at: int  # position of its control token
    text_end: int  # first position after its text: where the end-of-turn token stands


_Encoded = tuple[list[int], list[Turn]]
# (for an answer, (role, whether it says something) by message)
_Shape = tuple[bool, tuple[tuple[str, bool], ...]]
COMPOSED = 4  # characters that composing may make one of, at most
SPELLINGS = 10_000  # whose ids are remembered
PLACE_HINT = (
    'set train.thought: "none" puts the control token after an empty thought, "before" '
    "in front of any"
)
STRUCTURES = 256  # shapes of conversations whose turns are remembered


@dataclass(frozen=True, slots=True)
class _Marks:
    """Places in a rendered conversation that are not left to the tokenizer."""

    nonce: str  # nobody can write it in advance
    # (kind, ids that belong there)
    pieces: list[tuple[str, list[int]]] = field(default_factory=list)

    def add(self, kind: str, ids: list[int]) -> str:
        self.pieces.append((kind, ids))
        return f"{self.nonce}x{len(self.pieces) - 1}x"

    def found_in(self, text: str) -> list[int]:
        return [int(n) for nonce, n in MARK.findall(text) if nonce == self.nonce]

    def replace(self, text: str, stand_in: str) -> str:
        return MARK.sub(lambda found: stand_in if found[1] == self.nonce else found[0], text)


# For base models, which come without a template: a line that names the role, the text, the end
# token.
TURNS = (
    "{{ bos_token or '' }}{% for m in messages %}{{ '### ' + m['role'] + '\n' + m['content'] + "
    "eos_token + '\n' }}{% endfor %}{% if add_generation_prompt %}{{ '### assistant\n' }}{% endif "
    "%}"
)
# ChatML without the system prompt that some models put in front of every conversation: a third of
# all tokens of short prompts. For models whose tokenizer has its two tokens.
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' "
    "}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
TEMPLATES = {"turns": TURNS, "chatml": CHATML}


def load_tokenizer(path: str | Path, template: str | None = None) -> PreTrainedTokenizerFast:
    """A fast tokenizer with a chat template: its own, or `template`.

    template: None or "own", "bare" (see bare_template), a name of TEMPLATES, or Jinja. Raises
    EngineError where there is none.
    """
    if not Path(path).is_dir() and (Path(path).is_absolute() or str(path).startswith((".", "~"))):
        raise EngineError(
            f"there is no folder {str(path)!r}",
            "expected a checkpoint folder or a Hugging Face name",
        )
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            str(path), local_files_only=Path(path).is_dir(), trust_remote_code=False
        )
    except (OSError, ValueError) as e:
        raise EngineError(
            f"no tokenizer at {str(path)!r}: {str(e).splitlines()[0]}", "check the path or name"
        ) from None
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise EngineError(
            f"the tokenizer of {str(path)!r} is not a fast one",
            "convert it to tokenizer.json first",
        )
    if template not in (None, "own", "bare"):
        tokenizer.chat_template = TEMPLATES.get(str(template), template)
    if not tokenizer.chat_template:
        raise EngineError(
            f"the tokenizer of {str(path)!r} has no chat template",
            'base models have none: set train.chat_template = "turns", or to a Jinja template of '
            "yours",
        )
    if template == "bare":
        tokenizer.chat_template = bare(tokenizer)
    return tokenizer


def install(
    tokenizer: PreTrainedTokenizerFast, taxonomy: Taxonomy, scratch: Path
) -> tuple[Any, dict[str, str]]:
    """A copy of `tokenizer` in which every control token is one special id, reusing reserved rows
    where there are any.

    scratch: an empty folder to edit the tokenizer files in. Returns the new tokenizer and, per
    control token, the reserved token whose row it took (absent when a row must be added to the
    model).
    """
    tokenizer.save_pretrained(scratch)
    added = [t.content for t in tokenizer.added_tokens_decoder.values()]
    missing = [t for t in taxonomy.tokens if t not in added]
    reserved = [t for t in added if RESERVED.fullmatch(t)]
    taken = dict(zip(missing, reserved, strict=False)) if len(reserved) >= len(missing) else {}
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        _rename_tokens(scratch / name, {old: new for new, old in taken.items()})
    copy = load_tokenizer(scratch)
    # Those that exist become special, keeping their ids. False: the default would drop the model's
    # own special tokens.
    copy.add_special_tokens(
        {"extra_special_tokens": list(taxonomy.tokens)}, replace_extra_special_tokens=False
    )
    return copy, taken


def control_ids(tokenizer: PreTrainedTokenizerFast, tokens: Sequence[str]) -> tuple[int, ...]:
    """The id of each control token. Raises EngineError unless each is one special id of its own
    that round-trips.
    """
    ids = []
    for token in tokens:
        encoded = tokenizer(token, add_special_tokens=False)["input_ids"]
        if len(encoded) != 1 or encoded[0] == tokenizer.unk_token_id:
            raise EngineError(
                f"control token {token!r} encodes to {len(encoded)} ids {encoded}, expected "
                "exactly one",
                "train with `demur train`, which registers it; or check the taxonomy's spelling: "
                "demur doctor MODEL",
            )
        entry = tokenizer.added_tokens_decoder.get(encoded[0])
        if entry is None or not entry.special:
            raise EngineError(
                f"{token!r} (id {encoded[0]}) is not a special token",
                "register it with add_special_tokens",
            )
        if tokenizer.decode(encoded) != token:
            raise EngineError(
                f"{token!r} decodes to {tokenizer.decode(encoded)!r}", "the token must round-trip"
            )
        ids.append(int(encoded[0]))
    if len(set(ids)) != len(ids):
        raise EngineError(f"control tokens {list(tokens)} share ids {ids}", "give each its own")
    return tuple(ids)


class ChatEncoder:
    """Conversations to ids, with control tokens only where we put them.

    keep_history: whether past assistant turns carry their control token; training and serving must
    agree, so it is part of the fingerprint. ids: of the control tokens where a checkpoint's
    convention fixes them; they must be special tokens, however spelled. Raises EngineError when the
    template refuses, drops or reorders messages, or when a control id turns up that we did not
    write.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerFast,
        tokens: Sequence[str],
        *,
        keep_history: bool = True,
        ids: Sequence[int] = (),
    ) -> None:
        self._tokenizer = tokenizer
        self._tokens = tuple(tokens)
        self._ids = tuple(ids) or control_ids(tokenizer, tokens)
        self._stand_in = tokenizer.added_tokens_decoder[self._ids[0]].content
        self._keep_history = keep_history
        literals = sorted(
            (t.content for t in tokenizer.added_tokens_decoder.values()), key=len, reverse=True
        )
        self._literal = re.compile("|".join(map(re.escape, literals)))
        self._guard = TurnTokens(tokenizer, self._ids)
        normaliser = tokenizer.backend_tokenizer.normalizer
        keeps = normaliser is None or isinstance(normaliser, NFC | NFKC)
        # characters of a token
        self._longest = max(map(len, tokenizer.get_vocab())) if keeps else 0
        self._structures: dict[_Shape, list[int]] = {}
        # filled as they occur: a hostile text has the same one 80,000 times
        self._spellings: dict[str, list[int]] = {}
        self._require_no_open_thought()

    @property
    def tokens(self) -> tuple[str, ...]:
        """The control tokens, by score column."""
        return self._tokens

    @property
    def token_ids(self) -> tuple[int, ...]:
        """The control ids, by score column."""
        return self._ids

    @property
    def template_digest(self) -> str:
        """sha256 of the chat template and of the history setting."""
        text = f"{self._tokenizer.chat_template}\nkeep_history={self._keep_history}"
        return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"

    @property
    def end_of_turn(self) -> int | None:
        """The special token that the template puts after an answer; None where it puts none
        there.
        """
        ids, turns = self.conversation(
            [Message(role="user", content="a"), Message(role="assistant", content="b")], [0]
        )
        after = ids[turns[-1].text_end] if turns[-1].text_end < len(ids) else None
        return after if after in self._tokenizer.all_special_ids else None

    def _require_no_open_thought(self) -> None:
        """Raise EngineError where a control token would stand within a thought: how the thought
        begins is scored there.

        A model that opens a thought by itself is in doubt: what it puts on that is no control
        token's probability.
        """
        tail = str(
            self._tokenizer.decode(
                self.prompt([Message(role="user", content="How are you?")])[-16:]
            )
        )
        if "<think>" in tail and "</think>" not in tail.rpartition("<think>")[2]:
            raise EngineError(
                f"the chat template opens a thought that it leaves open: {tail!r}", PLACE_HINT
            )

    def prompt(self, messages: Sequence[Message], columns: Sequence[int] = ()) -> list[int]:
        """Ids of a conversation that ends with the user, up to where the answer's control token
        belongs.

        columns: the control token of each past assistant turn, as a score column; missing ones are
        0 (respond).
        """
        return self._encode(messages, columns, generation=True)[0]

    def fewest_tokens(self, messages: Sequence[Message]) -> int:
        """A number that a prompt's tokens do not fall below, known without encoding it.

        No token stands for more characters than its own string has. Composing (NFC, NFKC) joins a
        few characters into one; where a normaliser may drop characters nothing is known: 0.
        """
        characters = sum(len(m.content) for m in messages)
        return characters // (self._longest * COMPOSED) if self._longest else 0

    def conversation(
        self, messages: Sequence[Message], columns: Sequence[int]
    ) -> tuple[list[int], list[Turn]]:
        """Ids of a finished conversation, and its assistant turns that open with a control
        token.
        """
        return self._encode(messages, columns, generation=False)

    def _encode(
        self, messages: Sequence[Message], columns: Sequence[int], *, generation: bool
    ) -> _Encoded:
        try:
            whole, marks = self._render(messages, columns, generation=generation)
        except TemplateError:
            # No system role, or turns that must alternate: the same texts, folded into turns that
            # do.
            messages, columns = fold(messages, columns)
            try:
                whole, marks = self._render(messages, columns, generation=generation)
            except TemplateError as e:
                raise EngineError(
                    f"the chat template refuses roles {[m.role for m in messages]}: {e}",
                    "give the conversation the order of roles that the model was made for",
                ) from None
        expected = (
            self._structure(messages, generation=generation) if self._guard.is_needed else None
        )
        return self._splice(whole, marks, expected)

    def _render(
        self, messages: Sequence[Message], columns: Sequence[int], *, generation: bool
    ) -> tuple[str, _Marks]:
        """The template's text with marks. Raises TemplateError if the template refuses the
        conversation.
        """
        marks = _Marks(nonce=secrets.token_hex(8))
        rendered: list[dict[str, str]] = []
        turn = 0
        for at, message in enumerate(messages):
            before = after = ""
            opens = self._opens(message.role, at, len(messages))
            if opens:
                before = marks.add("open", [self._ids[columns[turn] if turn < len(columns) else 0]])
            pieces = self._pieces(message.content)
            text = "".join(
                marks.add("text", self._spelled(p)) if spelled else p for p, spelled in pieces
            )
            if opens:
                text, after = text.strip(), marks.add("close", [])
            turn += message.role == "assistant"
            rendered.append({"role": message.role, "content": before + text + after})
        return self._templated(rendered, generation=generation), marks

    def _opens(self, role: str, at: int, turns: int) -> bool:
        """Whether the message at this place of so many opens with a control token."""
        return role == "assistant" and (self._keep_history or at == turns - 1)

    def _pieces(self, text: str) -> list[Piece]:
        """The text in pieces, those apart that would be read as tokens of ours or of the
        template.
        """
        pieces: list[Piece] = []
        at = 0
        for found in self._literal.finditer(text):
            pieces += [*self._guard.pieces(text[at : found.start()]), (found.group(), True)]
            at = found.end()
        return pieces + self._guard.pieces(text[at:])

    def _templated(self, rendered: list[dict[str, str]], *, generation: bool) -> str:
        return str(
            self._tokenizer.apply_chat_template(
                rendered, tokenize=False, add_generation_prompt=generation, enable_thinking=False
            )
        )

    def _structure(self, messages: Sequence[Message], *, generation: bool) -> list[int]:
        """The tokens of turns that the template itself writes for a conversation of these roles."""
        key = (generation, tuple((m.role, bool(m.content.strip())) for m in messages))
        if key not in self._structures:
            bare = [{"role": role, "content": "x" if said else ""} for role, said in key[1]]
            for at, turn in enumerate(bare):
                # cut where real turns are: a piece begins anew there
                if self._opens(turn["role"], at, len(bare)):
                    turn["content"] = self._stand_in + turn["content"] + self._stand_in
            found = self._guard.found(self._templated(bare, generation=generation))
            self._structures[key] = [i for i in found if i != self._ids[0]]
            while len(self._structures) > STRUCTURES:
                self._structures.pop(next(iter(self._structures)))
        return self._structures[key]

    def _splice(self, text: str, marks: _Marks, expected: list[int] | None) -> _Encoded:
        """Tokenise the rendered text with a control token standing in for every mark, then put in
        what is marked.

        A special token cuts the text exactly as it will be cut in service, whatever the tokenizer
        does at the start of a piece, so ids of ordinary text stay what they always were.
        """
        if marks.found_in(text) != list(range(len(marks.pieces))):
            raise EngineError(
                f"the chat template dropped or moved some of {len(marks.pieces)} marked places",
                "use a template that renders every message once and in order",
            )
        raw = self._tokenizer(marks.replace(text, self._stand_in), add_special_tokens=False)[
            "input_ids"
        ]
        stand_in = self._ids[0]
        if raw.count(stand_in) != len(marks.pieces) or any(i in self._ids[1:] for i in raw):
            raise EngineError(
                "a control token turned up that nobody wrote",
                "the chat template must not contain one",
            )
        if (
            expected is not None
            and [i for i in raw if i in self._guard.ids and i != stand_in] != expected
        ):
            raise EngineError(
                "text of the conversation would be read as the beginning or the end of a turn",
                "this tokenizer normalises it into such a token: leave it out",
            )
        ids: list[int] = []
        turns: list[Turn] = []
        pieces = iter(marks.pieces)
        for token_id in raw:
            kind, piece = next(pieces) if token_id == stand_in else ("plain", [token_id])
            if kind == "open":
                turns.append(Turn(control_at=len(ids), text_end=-1))
            elif kind == "close":
                turns[-1] = replace(turns[-1], text_end=len(ids))
            ids += piece
        return ids, turns

    def _spelled(self, literal: str) -> list[int]:
        """The ids of a special token's literal as mere text."""
        if literal in self._spellings:
            return self._spellings[literal]
        ids = self._guard.spelled(literal)
        if len(self._spellings) < SPELLINGS:
            self._spellings[literal] = ids
        return ids


def tokenizer_digest(tokenizer: PreTrainedTokenizerFast) -> str:
    """sha256 of everything that decides how text becomes ids."""
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    state.pop("padding", None)  # set and unset by whoever pads last; does not change ids
    state.pop("truncation", None)
    return f"sha256:{hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()}"


def _rename_tokens(path: Path, taken: dict[str, str]) -> None:
    """Give reserved tokens their new spelling wherever a tokenizer file names them."""
    if taken and path.exists():
        value = _renamed(json.loads(path.read_text(encoding="utf-8")), taken)
        path.write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")


def _renamed(value: Any, taken: dict[str, str]) -> Any:
    if isinstance(value, dict):
        return {taken.get(k, k): _renamed(v, taken) for k, v in value.items()}
    if isinstance(value, list):
        return [_renamed(v, taken) for v in value]
    return taken.get(value, value) if isinstance(value, str) else value
