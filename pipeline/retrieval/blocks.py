"""How rows are divided into scoring blocks along the axis of costs."""

from __future__ import annotations

# About so many tokens, over all sequences of its rows, make a block: prefixes are shared within it, so it is large; it is also
# what a failed actor loses, and no more actors than blocks can work.
BLOCK_TOKENS = 1 << 20


def block_count(tokens: int, k: int) -> int:
    """How many blocks a run has: `tokens` is the sum of prompt and target tokens over its rows."""
    return max(1, -(-tokens * (k + 1) // BLOCK_TOKENS))


def block_width(tokens: int, k: int) -> int:
    """The tokens of rows in a block."""
    return max(1, -(-tokens // block_count(tokens, k)))
