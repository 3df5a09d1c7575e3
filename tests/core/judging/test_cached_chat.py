import pytest

from demur.base.errors import EngineError
from demur.core.example import Message
from demur.core.judging.cached_chat import CachedChat, not_asked
from demur.core.judging.judge import ChatAnswer, ChatQuestion, NoAnswer


class Kept(dict):
    def put(self, key, said):
        self[key] = said


class Model:
    """Says "to <question>"; questions in `silent` get no answer, those in `others` another
    model's.
    """

    def __init__(self, silent=(), others=(), asked_as="m"):
        self.silent, self.others, self.asked_as, self.asked = silent, others, asked_as, []

    def ask_many(self, requests, on_reply):
        for place, request in reversed(list(enumerate(requests))):
            text = request.messages[-1].content
            self.asked.append(text)
            model = "m-2" if text in self.others else "m-1"
            on_reply(
                place,
                NoAnswer(reason="gone")
                if text in self.silent
                else ChatAnswer(text=f"to {text}", model=model),
            )


def plain(*texts):
    return [ChatQuestion(messages=(Message(role="user", content=t),)) for t in texts]


def ask(model, kept, *texts):
    told = []
    asker = CachedChat(chat=model, replies=kept)
    return asker, asker.ask(plain(*texts), told.append), told


def test_replies_come_in_order_and_what_is_known_is_not_asked_again():
    kept, model = Kept(), Model()
    _, first, told = ask(model, kept, "a", "b")
    asker, second, _ = ask(model, kept, "b", "c", "a")
    assert [r.text for r in first] == ["to a", "to b"]
    assert [r.text for r in second] == ["to b", "to c", "to a"]
    assert (model.asked, asker.asked, asker.model, told) == (["b", "a", "c"], 1, "m-1", [1, 2])


def test_silence_is_not_kept_and_asked_about_again():
    kept = Kept()
    _, first, _ = ask(Model(silent=("a",)), kept, "a", "b")
    _, second, _ = ask(model := Model(), kept, "a", "b")
    assert first[0] == NoAnswer(reason="gone")
    assert second[0].text == "to a"
    assert model.asked == ["a"]


def test_other_settings_are_another_question():
    kept = Kept()
    ask(Model(), kept, "a")
    ask(model := Model(asked_as="m max_tokens=9"), kept, "a")
    assert model.asked == ["a"]


@pytest.mark.parametrize("at_once", [True, False])
def test_two_models_under_one_name_are_both_named(at_once):
    kept = Kept()
    if not at_once:
        ask(Model(), kept, "a")
    with pytest.raises(EngineError, match="'m-1' before and as 'm-2' now"):
        ask(Model(others=("b",)), kept, "b", "a")
    assert {said.model for said in kept.values()} == {"m-1"}  # the other's reply is not among them


def test_a_spent_budget_is_told_from_silence():
    assert not_asked(NoAnswer(reason="not asked: the budget of 3 calls is spent"))
    assert not not_asked(NoAnswer(reason="no answer in 3 tries"))
    assert not not_asked(ChatAnswer(text="not asked", model="m"))
