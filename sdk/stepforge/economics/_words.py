"""The sentence that says why. Numbers are those of the verdict."""

from __future__ import annotations

from collections.abc import Sequence

from stepforge.contracts.decisions import JudgedArm, Question, Swing


def sentence_of(
    action: str, chosen: JudgedArm | None, arms: Sequence[JudgedArm], swings: Sequence[Swing], question: Question
) -> str:
    """What to do and why, in one paragraph."""
    possible = [arm for arm in arms if not arm.refusals]
    over = f"over {question.horizon_months} months"
    if action == "pilot" and chosen is not None:
        return (
            f"Try {chosen.name} first: its pilot costs {usd(chosen.pilot_usd or 0)}, and what it shows is expected to "
            f"be worth {usd(chosen.pilot_worth_usd or 0)} ({_now(possible)}).{_hangs(swings)}"
        )
    if action == "launch" and chosen is not None:
        rivals = [arm for arm in possible if arm.name != chosen.name]
        return (
            f"Launch {chosen.name}: it is expected to bring {usd(chosen.net_usd.mean)} {over} (80 %: "
            f"{usd(chosen.net_usd.low)} to {usd(chosen.net_usd.high)}), and pays in {chosen.pays_probability:.0%} of "
            f"cases; {_pays_back(chosen)}.{_next(chosen, rivals)}{_hangs(swings)}"
        )
    if not possible:
        count = len(arms)
        return f"Stay with the base: {'the one arm is' if count == 1 else f'all {count} arms are'} refused."
    best = possible[0]
    return (
        f"Stay with the base: the best arm, {best.name}, is expected to bring {usd(best.net_usd.mean)} {over} (80 %: "
        f"{usd(best.net_usd.low)} to {usd(best.net_usd.high)}), which weighed for risk is {usd(best.score_usd)}, and "
        f"no pilot is worth its price.{_hangs(swings)}"
    )


def usd(value: float) -> str:
    """Dollars for people.

    >>> usd(-1234.5), usd(0.804)
    ('-$1,234', '$0.80')
    """
    sign = "-" if value < 0 else ""
    size = abs(value)
    return f"{sign}${size:,.2f}" if size < 10 else f"{sign}${size:,.0f}"


def _now(possible: Sequence[JudgedArm]) -> str:
    best = possible[0]
    if best.score_usd <= 0:
        return "without it, one would stay with the base"
    return f"without it, one would launch {best.name} for an expected {usd(best.net_usd.mean)}"


def _pays_back(arm: JudgedArm) -> str:
    if arm.break_even_requests is None:
        return "it never pays itself back by requests, and is chosen for criteria beside money"
    return f"it has paid itself back after {arm.break_even_requests:,.0f} of {arm.expected_requests:,.0f} requests"


def _next(chosen: JudgedArm, rivals: Sequence[JudgedArm]) -> str:
    if not rivals:
        return ""
    rival = rivals[0]
    return f" The next best, {rival.name}, is expected to bring {usd(rival.net_usd.mean)}."


def _hangs(swings: Sequence[Swing]) -> str:
    if not swings:
        return ""
    first = swings[0]
    return (
        f" Most hangs on the {first.input}: from {usd(first.low_usd)} at {first.low_label} to {usd(first.high_usd)} at "
        f"{first.high_label}."
    )
