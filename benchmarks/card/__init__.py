"""Fifteen minutes on a card: the stages of `first_card.py`, who leads them, and the table of what they found."""
