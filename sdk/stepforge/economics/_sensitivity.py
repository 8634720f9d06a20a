"""What the answer hangs on: each input at its 10 % and 90 % quantile, all others at their means. Pure."""

from __future__ import annotations

from stepforge.contracts.decisions import Swing
from stepforge.economics._numbers import INTERVAL, STANDARD, factor_quantile
from stepforge.economics._value import Offer, Stakes, net_value


def swings(offer: Offer, stakes: Stakes, gain_mean: float, gain_variance: float) -> tuple[Swing, ...]:
    """The bars of a tornado plot, the widest first. Inputs that nothing hangs on are left out."""
    low, high = INTERVAL
    sd = gain_variance**0.5
    gains = [gain_mean + sd * STANDARD.inv_cdf(share) for share in (low, high)]
    found = [
        _swing("gain in quality", [f"{g:+.3f}" for g in gains], [net_value(offer, stakes, g) for g in gains]),
    ]
    quotes = (
        ("requests a month", "volume", stakes.requests_relative_sd, stakes.requests_month, "{:,.0f}"),
        ("worth of a point of quality", "worth", stakes.quality_relative_sd, stakes.quality_usd, "{:.4g} USD"),
        ("cost of 1,000 requests", "request", offer.request_relative_sd, offer.request_usd * 1_000, "{:,.3g} USD"),
        ("fixed costs", "fixed", offer.fixed_relative_sd, offer.fixed_usd, "{:,.0f} USD"),
    )
    for label, key, relative_sd, value, form in quotes:
        factors = [factor_quantile(relative_sd, share) for share in (low, high)]
        values = [net_value(offer, stakes, gain_mean, **{key: factor}) for factor in factors]
        found.append(_swing(label, [form.format(value * factor) for factor in factors], values))
    if offer.failure_rate:
        values = [net_value(offer, stakes, gain_mean, failures=count) for count in (0.0, 1.0)]
        found.append(_swing("failed trainings", ["0", "1"], values))
    widest = sorted(found, key=lambda swing: -abs(swing.high_usd - swing.low_usd))
    return tuple(swing for swing in widest if swing.high_usd != swing.low_usd)


def _swing(label: str, labels: list[str], values: list[float]) -> Swing:
    return Swing(input=label, low_label=labels[0], high_label=labels[1], low_usd=values[0], high_usd=values[1])
