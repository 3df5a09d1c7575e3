"""Conversations to token ids, with control tokens that only demur can write.

1. Text of people is searched for the literals of added tokens, and for other spellings that the
   tokenizer would read as such a token (demur.engines.turn_tokens). Each find is replaced by a
   random mark; so is each place where a control token belongs.
2. The model's own chat template renders the conversation with these marks. A template that refuses
   the roles gets the conversation folded (demur.core.conversation.folding).
3. The tokenizer reads the rendered text with one control token in place of every mark.
4. Each of these stand-ins is replaced: by the control token that belongs there, or by the ids of
   the text found in step 1, encoded letter by letter. Text of people has never met the tokenizer's
   search for special tokens.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from jinja2 import TemplateError
from tokenizers.normalizers import NFC, NFKC
from transformers import PreTrainedTokenizerFast

from demur.base.errors import EngineError
from demur.core.conversation.folding import alternate_turns
from demur.core.example import Message
from demur.engines.tokenizer import control_ids
from demur.engines.turn_tokens import Piece, TurnTokens

# nonce and number of a mark; one pattern for every nonce: compiling one each would double the work
MARK = re.compile(r"([0-9a-f]{16})x(\d+)x")


@dataclass(frozen=True, kw_only=True, slots=True)
class Turn:
    """Positions of one assistant turn in an encoded conversation."""

    control_at: int  # position of its control token
    text_end: int  # first position after its text: where the end-of-turn token stands


_Encoded = tuple[list[int], list[Turn]]
# (whether an answer is to follow, (role, whether the message has text) by message)
_Shape = tuple[bool, tuple[tuple[str, bool], ...]]
COMPOSED = 4  # characters that NFC or NFKC may compose into one, at most
SPELLINGS = 10_000  # literals of special tokens whose letter-by-letter ids are cached
PLACE_HINT = (
    'set train.thought: "none" puts the control token after an empty thought, "before" '
    "in front of any"
)
STRUCTURES = 256  # sequences of roles whose turn tokens are cached


@dataclass(frozen=True, slots=True)
class _Marks:
    """Marks in a rendered conversation, for what demur encodes instead of the tokenizer."""

    nonce: str  # random, so that no text of people can hold it
    # (kind, ids to put in place of the mark), by the mark's number. Kinds: "open", a control token;
    # "close", the end of an answer's text; "text", text that spells a special token
    pieces: list[tuple[str, list[int]]] = field(default_factory=list)

    def add(self, kind: str, ids: list[int]) -> str:
        """Append a mark and return its text."""
        self.pieces.append((kind, ids))
        return f"{self.nonce}x{len(self.pieces) - 1}x"

    def found_in(self, text: str) -> list[int]:
        """Numbers of the marks in a text, in order."""
        return [int(n) for nonce, n in MARK.findall(text) if nonce == self.nonce]

    def replace(self, text: str, stand_in: str) -> str:
        """Put `stand_in` in place of every mark of this nonce; other texts of that shape stay."""
        return MARK.sub(lambda found: stand_in if found[1] == self.nonce else found[0], text)


class ChatEncoder:
    """Encodes conversations to token ids, with control tokens only where demur puts them.

    keep_history: whether past assistant turns carry their control token; training and serving must
    agree, so it is part of the fingerprint. ids: of the control tokens where a checkpoint's
    convention fixes them; they must be special tokens, however spelled. Raises EngineError when the
    template refuses, drops or reorders messages, or when it writes a control token itself.
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
        # Longest first: a pattern takes the first alternative that fits, and a token may begin
        # with another one's literal.
        literals = sorted(
            (t.content for t in tokenizer.added_tokens_decoder.values()), key=len, reverse=True
        )
        self._literal = re.compile("|".join(map(re.escape, literals)))
        self._guard = TurnTokens(tokenizer, self._ids)
        normaliser = tokenizer.backend_tokenizer.normalizer
        keeps = normaliser is None or isinstance(normaliser, NFC | NFKC)
        # characters of the longest token; 0: unknown, since the normaliser may drop characters
        self._longest = max(map(len, tokenizer.get_vocab())) if keeps else 0
        self._structures: dict[_Shape, list[int]] = {}
        # Encoding letter by letter is slow, and a hostile text has the same literal 80,000 times.
        self._spellings: dict[str, list[int]] = {}
        self._require_no_open_thought()

    @property
    def tokens(self) -> tuple[str, ...]:
        """Control tokens, by score column."""
        return self._tokens

    @property
    def token_ids(self) -> tuple[int, ...]:
        """Control ids, by score column."""
        return self._ids

    @property
    def template_digest(self) -> str:
        """sha256 of the chat template and of keep_history."""
        text = f"{self._tokenizer.chat_template}\nkeep_history={self._keep_history}"
        return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"

    @property
    def end_of_turn(self) -> int | None:
        """Id of the special token that the template puts after an answer; None without one."""
        ids, turns = self.conversation(
            [Message(role="user", content="a"), Message(role="assistant", content="b")], [0]
        )
        after = ids[turns[-1].text_end] if turns[-1].text_end < len(ids) else None
        return after if after in self._tokenizer.all_special_ids else None

    def _require_no_open_thought(self) -> None:
        """Raise EngineError if the template ends a prompt within an open thought.

        The score would then be read where the thought begins, not where the answer does.
        """
        ids = self.prompt([Message(role="user", content="How are you?")])
        tail = str(self._tokenizer.decode(ids[-16:]))
        if "<think>" in tail and "</think>" not in tail.rpartition("<think>")[2]:
            raise EngineError(
                f"the chat template opens a thought that it leaves open: {tail!r}", PLACE_HINT
            )

    def prompt(self, messages: Sequence[Message], columns: Sequence[int] = ()) -> list[int]:
        """Encode a conversation that ends with the user, up to where the answer's control token
        belongs.

        columns: the control token of each past assistant turn, as a score column; missing ones are
        0 (respond). Raises EngineError; see the class.
        """
        return self._encode(messages, columns, generation=True)[0]

    def begun_answer(self, messages: Sequence[Message], column: int, text: str) -> list[int]:
        """Encode a conversation that ends with the user, a control token, and how the answer to it
        begins.

        White space around `text` is dropped, as training drops it. Raises EngineError; see the
        class.
        """
        start = [*self.prompt(messages), self._ids[column]]
        if not text.strip():
            return start
        past = sum(message.role == "assistant" for message in messages)
        ids, turns = self.conversation(
            [*messages, Message(role="assistant", content=text)], [0] * past + [column]
        )
        return start + ids[turns[-1].control_at + 1 : turns[-1].text_end]

    def fewest_tokens(self, messages: Sequence[Message]) -> int:
        """Lower bound of a prompt's number of tokens, computed without encoding it.

        No token stands for more characters than its own string has, times those that composing
        (NFC, NFKC) joins into one. 0 where the normaliser may drop characters.
        """
        characters = sum(len(m.content) for m in messages)
        return characters // (self._longest * COMPOSED) if self._longest else 0

    def conversation(
        self, messages: Sequence[Message], columns: Sequence[int]
    ) -> tuple[list[int], list[Turn]]:
        """Encode a finished conversation; returns its ids and its turns with a control token.

        columns: as in `prompt`, the last answer's included. Raises EngineError; see the class.
        """
        return self._encode(messages, columns, generation=False)

    def _encode(
        self, messages: Sequence[Message], columns: Sequence[int], *, generation: bool
    ) -> _Encoded:
        try:
            whole, marks = self._render(messages, columns, generation=generation)
        except TemplateError:
            # The template knows no system role, or wants turns to alternate: fold the same texts
            # into turns that do.
            messages, columns = alternate_turns(messages, columns)
            try:
                whole, marks = self._render(messages, columns, generation=generation)
            except TemplateError as e:
                raise EngineError(
                    f"the chat template refuses roles {[m.role for m in messages]}: {e}",
                    "give the conversation the order of roles that the model was made for",
                ) from None
        # Turn tokens that the template alone writes: any other one would come from people's text.
        expected = (
            self._structure(messages, generation=generation) if self._guard.is_needed else None
        )
        return self._splice(whole, marks, expected)

    def _render(
        self, messages: Sequence[Message], columns: Sequence[int], *, generation: bool
    ) -> tuple[str, _Marks]:
        """Render the conversation with marks. Raises TemplateError if the template refuses it."""
        marks = _Marks(nonce=secrets.token_hex(8))
        rendered: list[dict[str, str]] = []
        turn = 0  # assistant turns so far: the position in `columns`
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
                # Many templates strip a message. Stripped here, with marks on both sides, the text
                # is the same under all of them.
                text, after = text.strip(), marks.add("close", [])
            turn += message.role == "assistant"
            rendered.append({"role": message.role, "content": before + text + after})
        return self._templated(rendered, generation=generation), marks

    def _opens(self, role: str, at: int, turns: int) -> bool:
        """Whether the message at index `at` of `turns` messages opens with a control token."""
        return role == "assistant" and (self._keep_history or at == turns - 1)

    def _pieces(self, text: str) -> list[Piece]:
        """Cut a text where the tokenizer would find added tokens: (text, whether it is one)."""
        pieces: list[Piece] = []
        at = 0
        for found in self._literal.finditer(text):
            pieces += [*self._guard.pieces(text[at : found.start()]), (found.group(), True)]
            at = found.end()
        return pieces + self._guard.pieces(text[at:])

    def _templated(self, rendered: list[dict[str, str]], *, generation: bool) -> str:
        """Apply the chat template, thinking switched off where it has such a switch."""
        return str(
            self._tokenizer.apply_chat_template(
                rendered, tokenize=False, add_generation_prompt=generation, enable_thinking=False
            )
        )

    def _structure(self, messages: Sequence[Message], *, generation: bool) -> list[int]:
        """Turn tokens that the template itself writes for a conversation of these roles."""
        key = (generation, tuple((m.role, bool(m.content.strip())) for m in messages))
        if key not in self._structures:
            # Each message as "x" or empty: some templates leave out empty messages.
            bare = [{"role": role, "content": "x" if said else ""} for role, said in key[1]]
            for at, turn in enumerate(bare):
                # Stand-ins where real conversations have marks: the tokenizer starts afresh there.
                if self._opens(turn["role"], at, len(bare)):
                    turn["content"] = self._stand_in + turn["content"] + self._stand_in
            found = self._guard.found(self._templated(bare, generation=generation))
            self._structures[key] = [i for i in found if i != self._ids[0]]
            while len(self._structures) > STRUCTURES:  # the oldest goes first
                self._structures.pop(next(iter(self._structures)))
        return self._structures[key]

    def _splice(self, text: str, marks: _Marks, expected: list[int] | None) -> _Encoded:
        """Tokenize the rendered text with a control token in place of every mark, then put in the
        ids of the marks.

        A special token cuts the text exactly as in service, whatever the tokenizer does at the
        start of a piece, so the ids of ordinary text do not change.

        expected: the turn tokens that the template writes; None where no other spelling can become
        one.
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
        """Ids of a special token's literal encoded as plain text, cached."""
        if literal in self._spellings:
            return self._spellings[literal]
        ids = self._guard.spelled(literal)
        if len(self._spellings) < SPELLINGS:
            self._spellings[literal] = ids
        return ids
