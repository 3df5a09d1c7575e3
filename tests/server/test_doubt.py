"""What clients, logs and metrics learn of a score that decides nothing; the policy's rule comes
before the server's.
"""

from dataclasses import replace

import pytest

from demur.core.policy import DoubtRule
from tests.server.live_server import ANSWERED, folder_of, policy, serving

# The fake engine leaves .002 outside its control tokens.
DOUBTED = DoubtRule(most_leftover=0.001)


@pytest.mark.parametrize("on_doubt", ["refuse", "error"])
def test_a_policy_that_refuses_in_doubt_needs_no_setting_of_the_server(tmp_path, on_doubt):
    folder = folder_of(tmp_path, replace(policy(), doubt=DOUBTED))
    with serving(folder, on_doubt=on_doubt) as server:
        body = server.chat(ANSWERED).json()
        assert body["demur"]["decision"] == "refuse"
        assert body["demur"]["category"] is not None
        assert "outside the control tokens" in body["demur"]["doubt"]
        assert body["choices"][0]["message"]["content"] is None
        assert (
            server.metric('demur_doubt_total{how="refused",policy="default",tenant="local"}') == 1
        )


def test_a_policy_that_makes_doubt_an_error_leaves_it_to_the_server(tmp_path):
    folder = folder_of(tmp_path, replace(policy(), doubt=replace(DOUBTED, then="error")))
    with serving(folder) as server:
        body = server.chat(ANSWERED).json()
        assert (body["demur"]["decision"], body["demur"]["category"]) == ("undecided", None)
        assert body["demur"]["doubt"]
        assert body["choices"][0]["message"]["refusal"]
        assert (
            server.metric('demur_doubt_total{how="undecided",policy="default",tenant="local"}') == 1
        )
    with serving(folder, on_doubt="error") as server:
        assert server.chat(ANSWERED).status_code == 503


def test_a_score_within_the_bound_says_nothing_of_doubt(tmp_path):
    with serving(
        folder_of(tmp_path, replace(policy(), doubt=DoubtRule(most_leftover=0.01)))
    ) as server:
        body = server.chat(ANSWERED).json()
        assert body["demur"]["decision"] == "respond"
        assert "doubt" not in body["demur"]
