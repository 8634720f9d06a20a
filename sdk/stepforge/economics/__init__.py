"""What jobs will cost and did cost: dated prices, estimates from earlier attempts, a ledger of those that ended."""
