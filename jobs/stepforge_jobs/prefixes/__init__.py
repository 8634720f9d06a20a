"""Log-probabilities and sampling in which rows with equal beginnings share them: each token is computed once."""
