"""Figures: each a function from a data frame to a matplotlib figure, all in one style."""
