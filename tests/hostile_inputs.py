"""What strangers' rows may hold."""

GOOD = {"instruction": "Sort.", "input": "b a", "output": "a b"}
MARKUP = "<script>alert('1')</script><img src=x onerror=\"x\">"


def deep(depth: int, opened: str = "[", closed: str = "]") -> str:
    """JSON so deep."""
    return opened * depth + closed * depth
