"""The same response in another vocabulary: text is encoded anew as it grows, and what has not changed is kept.

>>> common_prefix([1, 2, 3], [1, 2, 4])
2
"""

from trimtab.models.continuation import common_prefix

__all__ = ["common_prefix"]
