"""What chat shows of an answer, and what it remembers of it."""

import numpy as np

from demur.cli.deciding import chat
from demur.core.decision import decide
from demur.core.example import Message
from demur.core.ports import Answer
from tests import builders


class Model:
    """An engine whose answers are cut off at their limit."""

    def __init__(self):
        self.loaded = self

    def under(self, policy):
        return self

    def answer(self, prompts, policy, progress=None):
        logp_C = np.log([0.9, 0.05, 0.04]).astype(np.float32)
        return [
            (logp_C, decide(policy, logp_C), Answer(text="It is", finished=False, tokens=2))
            for _ in prompts
        ]


def test_a_text_that_was_cut_off_says_so_and_is_remembered_as_it_was(capsys):
    turns = chat._turn(
        Model(), builders.policy(2), (Message(role="user", content="What is it?"),), speaks=True
    )
    assert "It is ..." in capsys.readouterr().out
    assert turns[-1] == Message(role="assistant", content="It is")
