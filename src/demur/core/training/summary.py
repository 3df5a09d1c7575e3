"""Summary lines of a training: validation rows, language change and warnings, for terminals and
reports. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping

MOST_LOST = 0.10  # nats a reply token: above it a model has visibly forgotten how to speak
MOST_LEFTOVER = 0.01
Details = Mapping[str, str | int | float | bool]


def validation_line(details: Details) -> str | None:
    """How the chosen weights decide the validation rows; None if there were none."""
    if "validation_loss" not in details:
        return None
    return (
        f"validation: log loss {details['validation_loss']:.3f} and leftover mass "
        f"{details['validation_leftover']:.4f} on {details['validation_rows']:,} rows, at step "
        f"{details['best_step']:,}"
    )


def language_line(details: Details) -> str | None:
    """The language change: how much worse the model predicts ordinary replies than its base; None
    where that was not measured.
    """
    if "language_change" not in details:
        return None
    return (
        f"language: {float(details['language_change']):+.3f} nats a token against the base model, "
        f"on {details['language_tokens']:,} tokens of {details['language_rows']:,} ordinary replies"
    )


def taught_to_turn_back(details: Details) -> bool:
    """Whether rows taught the model to refuse in mid-answer."""
    return bool(details.get("turn_back_rows") or details.get("transition_rows"))


def turn_back_line(details: Details) -> str | None:
    """The rows that taught the model to turn back; None where it was not taught to."""
    if not taught_to_turn_back(details):
        return None
    harvested = ""
    if "harvested" in details:
        harvested = (
            f", from {details['harvested']:,} harvested answers ({details['harvest_left_out']:,} "
            "more declined in words, or said nothing, and were left out)"
        )
    return (
        f"turning back: {details['turn_back_rows']:,} turn-back rows and "
        f"{details['transition_rows']:,} transition rows{harvested}"
    )


def twins_line(details: Details) -> str | None:
    """The twin rows, which taught texts to follow their control token; None without any."""
    if not details.get("twin_rows"):
        return None
    return (
        f"twins: {details['twin_rows']:,} rows to be answered were learnt behind a refusal token "
        "too, with a refusal and no word on the decision"
    )


def training_warnings(details: Details) -> tuple[str, ...]:
    """Warnings about a trained model, each with what to do."""
    found = []
    change, leftover = (
        float(details.get(name, 0.0)) for name in ("language_change", "validation_leftover")
    )
    if change > MOST_LOST:
        found.append(
            f"the language suffers: ordinary replies cost {change:.2f} nats a token more than in "
            f"the base model, above {MOST_LOST:.2f}. Raise train.reply_share or "
            "train.frozen_share, or lower train.learning_rate"
        )
    if leftover > MOST_LEFTOVER:
        found.append(
            f"{leftover:.1%} of the probability lies on no control token: train longer, or raise "
            "train.control_weight"
        )
    return tuple(found)


def made_lines(details: Details) -> tuple[str, ...]:
    """The summary lines that say how a model came out and which added rows taught it."""
    lines = (validation_line, language_line, turn_back_line, twins_line)
    return tuple(said for line in lines if (said := line(details)))


def summary_lines(details: Details) -> tuple[str, ...]:
    """All summary lines and warnings, for a terminal."""
    return (
        *made_lines(details),
        *(f"warning: {text}" for text in training_warnings(details)),
    )
