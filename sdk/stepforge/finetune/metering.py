"""What calls of a model cost, counted before and after each."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, Annotated, Protocol

from pydantic import Field

from stepforge.contracts.base import Contract
from stepforge.errors import OverBudget

if TYPE_CHECKING:
    from stepforge.finetune.job import Completion, Message

MILLION = Decimal(1_000_000)
SLACK_TOKENS = 32
"""For roles and ends of messages, in the most that a call may cost."""


class TokenPrices(Contract):
    """US dollars for a million tokens."""

    input_usd: Annotated[Decimal, Field(gt=0)]
    output_usd: Annotated[Decimal, Field(gt=0)]


class Meter:
    """Counts what calls cost, and refuses the one that could exceed the budget.

    >>> meter = Meter(TokenPrices(input_usd=Decimal(1), output_usd=Decimal(5)), budget_usd=Decimal("0.01"))
    >>> meter.book(1000, 200)
    >>> meter.at(TokenPrices(input_usd=Decimal(3), output_usd=Decimal(3))).book(1000, 0)
    >>> meter.spent_usd, meter.calls
    (Decimal('0.005'), 2)
    """

    def __init__(self, prices: TokenPrices, *, budget_usd: Decimal) -> None:
        self.prices, self._account = prices, _Account(budget_usd)

    def at(self, prices: TokenPrices) -> Meter:
        """For calls at other rates, out of the same budget."""
        other = Meter(prices, budget_usd=self.budget_usd)
        other._account = self._account
        return other

    @property
    def budget_usd(self) -> Decimal:
        return self._account.budget_usd

    @property
    def spent_usd(self) -> Decimal:
        return self._account.spent_usd

    @property
    def calls(self) -> int:
        return self._account.calls

    def cost(self, input_tokens: int, output_tokens: int) -> Decimal:
        return (self.prices.input_usd * input_tokens + self.prices.output_usd * output_tokens) / MILLION

    def room(self, most_input_tokens: int, most_output_tokens: int) -> None:
        """Raises OverBudget where a call of this size might not be paid for."""
        most = self.cost(most_input_tokens, most_output_tokens)
        if self.spent_usd + most > self.budget_usd:
            raise OverBudget(
                f"the next call may cost {most:.4f} USD after {self.spent_usd:.4f}, but the budget is "
                f"{self.budget_usd} USD: it was not sent"
            )

    def book(self, input_tokens: int, output_tokens: int) -> None:
        self._account.calls += 1
        self._account.spent_usd += self.cost(input_tokens, output_tokens)


class _Account:
    """What meters of different rates have in common."""

    def __init__(self, budget_usd: Decimal) -> None:
        self.budget_usd, self.spent_usd, self.calls = budget_usd, Decimal(0), 0


class Metered(Protocol):
    """A model that asks its meter before each call, and books each."""

    meter: Meter
    local: bool
    """Whether it is a fake on this machine."""

    def ask(self, messages: Sequence[Message], *, max_tokens: int) -> Completion:
        """One call. Raises OverBudget before it, where it might exceed the budget.

        A call whose answer was lost is booked at the most that it can have cost.
        """
        ...


def most_input(messages: Sequence[Message]) -> int:
    """Tokens that these can be at most: a token is at least a byte."""
    return sum(len(m.content.encode()) for m in messages) + SLACK_TOKENS * len(messages)
