"""What a data set's own annotation says about mined negatives: a lower bound on how many of them are false."""

from collections.abc import Hashable

from g2e_lib.data.items import item_digests
from g2e_lib.data.subsets import Subset, subset_digest


class AnnotatedJudge:
    """Tells whether a target is annotated as a right answer to a query anywhere in a training subset.

    Real data record one answer a row, so a target counts as right for a query if some row pairs the two: labels and
    answers that repeat, and images with several captions, are seen; right answers that nobody wrote down are not.

    Args:
        subset: the pairs; items are the same if their content is, whatever the files are called.
    """

    def __init__(self, subset: Subset) -> None:
        digests = item_digests(item for pair in subset.pairs for item in (pair.query, pair.target))
        self._queries = [digests[pair.query] for pair in subset.pairs]
        self._targets = [digests[pair.target] for pair in subset.pairs]
        self._right: set[tuple[Hashable, Hashable]] = set(zip(self._queries, self._targets, strict=True))
        self.identity = f"annotated {subset_digest(subset)}"

    def is_right(self, query: int, other: int) -> bool:
        """Whether the positive of row `other` is annotated as a right answer to the query of row `query`."""
        return (self._queries[query], self._targets[other]) in self._right
