"""Pools of instructions for tests, searched as the pipeline searches a table of one shard."""

import numpy as np

from operators.retrieval.alternatives import Search, facts_of, queries_of, ranked
from operators.scoring.encode_pairs import Candidates


class Pool:
    """INSTRUCTIONS with their embeddings; the stretches in which a search is shown them are of `stretch` rows."""

    def __init__(self, table, vectors, *, paraphrase_max=0.95, same_task="exclude", stretch=10**6):
        self.table, self.vectors = table.combine_chunks(), vectors
        self.texts = table["text"].to_pylist()
        self._rules = {"paraphrase_max": paraphrase_max, "same_task": same_task}
        self._facts = facts_of(self.table, np.arange(len(table)))
        self._starts = range(0, len(table), stretch)
        self._stretch = stretch
        self.searched = []

    def search(self, queries, count, k=1):
        self.searched.append((len(queries), count))
        search = Search(queries, count, **self._rules)
        for start in self._starts:
            stop = min(start + self._stretch, len(self.texts))
            search.see(self.vectors[start:stop], self._facts.between(start, stop))
        found = search.end()
        return found, search.cramped(found, k)

    def neighbours(self, count):
        """NEIGHBOURS of all queries, with so many candidates."""
        return self.search(queries_of(self.table, np.arange(len(self.texts)), self.vectors), count)[0]

    def ranked(self, k):
        """NEIGHBOURS of all queries as a run with so many alternatives keeps them."""
        queries = queries_of(self.table, np.arange(len(self.texts)), self.vectors)
        return ranked(queries, k, lambda asked, count: self.search(asked, count, k))

    def candidates(self, neighbours):
        """By (instruction, has input, task): Candidates."""
        return {
            (self.texts[row["instruction_row"]], row["has_input"], row["task"]): Candidates(
                [self.texts[i] for i in row["candidates"]], row["similarities"], row["paraphrases_skipped"]
            )
            for row in neighbours.to_pylist()
        }


def unit(vectors):
    """Rows of length 1."""
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
