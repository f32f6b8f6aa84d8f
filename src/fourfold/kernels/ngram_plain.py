"""What `ngram_counts` and `ngram_smoothing` do, said plainly: dictionaries of tuples, one probability at a time.

Written from the formulas of the papers, not from the compiled code; a test holds the one to the other, and
nothing else uses it. An n-gram is a tuple of tokens; `stop` stands for every boundary in a context.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

Gram = tuple[int, ...]


class PlainModel:
    """An n-gram model of a text, recomputed from counts at every question."""

    def __init__(
        self,
        tokens: Sequence[int],
        order: int,
        vocabulary: int,
        end: int,
        stop: int,
        method: str,
        k: float = 1.0,
        prune: Sequence[int] = (),
    ) -> None:
        self.order, self.vocabulary, self.end, self.stop = order, vocabulary, end, stop
        self.method, self.k = method, k
        self.limits = [0, *prune, *[prune[-1] if prune else 0] * order][:order]
        self.raw: list[Counter[Gram]] = [Counter() for _ in range(order + 1)]
        for i in range(1, len(tokens)):
            context = self.context(tokens[:i])
            for length in range(min(len(context), order - 1) + 1):
                self.raw[length + 1][(*context[len(context) - length :], tokens[i])] += 1
        self.counts = [self._adjusted(n) for n in range(order + 1)]

    def context(self, before: Sequence[int]) -> Gram:
        """The tokens that count as context after some, from the last boundary on."""
        found: list[int] = []
        for token in reversed(before[-self.order :]):
            boundary = token in (self.end, self.stop)
            found.insert(0, self.stop if boundary else token)
            if boundary:
                break
        return tuple(found[-(self.order - 1) :]) if self.order > 1 else ()

    def _adjusted(self, n: int) -> Counter[Gram]:
        if n in (0, self.order) or "kneser" not in self.method:
            return self.raw[n]
        found = Counter(gram[1:] for gram in self.raw[n + 1])
        if n > 1:
            found.update({g: c for g, c in self.raw[n].items() if g[0] == self.stop})
        return found

    def _of(self, n: int, r: int) -> int:
        """n(r): how many n-grams of an order have a count."""
        return sum(c == r for c in self.counts[n].values())

    def _discount(self, n: int, count: int) -> float:
        """What is taken from a count, in absolute discounting and Kneser-Ney."""
        n1, n2, n3, n4 = (self._of(n, r) for r in (1, 2, 3, 4))
        if self.method != "modified-kneser-ney":
            return n1 / (n1 + 2 * n2) if n1 else 0.5
        if not n1 or not n2 or not n3:
            return [0.5, 1.0, 1.5][min(count, 3) - 1]
        y = n1 / (n1 + 2 * n2)
        three = [1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3]
        if not (0 < three[0] <= 1 and 0 < three[1] <= 2 and 0 < three[2] <= 3):
            three = [0.5, 1.0, 1.5]
        return three[min(count, 3) - 1]

    def _turing(self, n: int, count: int) -> float:
        """The discounted count of Katz: that of the largest k <= 5 for which all are usable."""
        for highest in (5, 4, 3, 2):
            of = [self._of(n, r) for r in range(highest + 2)]
            if min(of[1:]) == 0 or (highest + 1) * of[highest + 1] >= of[1]:
                continue
            left = 1 - (highest + 1) * of[highest + 1] / of[1]
            shares = {
                r: ((r + 1) * of[r + 1] / of[r] / r - (1 - left)) / left
                for r in range(1, highest + 1)
            }
            if all(1e-9 < share < 1 for share in shares.values()):
                return count * shares.get(count, 1.0)
        return float(count)

    def probability(self, word: int, context: Gram) -> float:
        """p(word | context) of a context from `context`."""
        if self.method == "add-k":
            full = len(context) == self.order - 1 or context[:1] == (self.stop,)
            following = self._following(context) if full else {}
            total = sum(following.values()) + self.k * self.vocabulary
            kept = self._unpruned(context, following)
            pruned = sum(following.values()) - sum(kept.values())
            return (kept.get(word, 0) + self.k + pruned / self.vocabulary) / total
        return self._backing(word, context, len(context) + 1)

    def _following(self, context: Gram) -> dict[int, int]:
        n = len(context) + 1
        return {g[-1]: c for g, c in self.counts[n].items() if g[:-1] == context}

    def _unpruned(self, context: Gram, following: dict[int, int]) -> dict[int, int]:
        n, raw = len(context) + 1, self.raw[len(context) + 1]
        return {w: c for w, c in following.items() if raw[(*context, w)] > self.limits[n - 1]}

    def _backing(self, word: int, context: Gram, n: int) -> float:
        if n == 0:
            return 1 / self.vocabulary
        shorter = context[1:] if n > 1 else ()
        following = self._following(context)
        if not following:
            return self._backing(word, shorter, n - 1)
        kept = self._unpruned(context, following)
        total = sum(following.values())
        if self.method == "good-turing":
            return self._katz(word, shorter, n, kept, total)
        below = self._backing(word, shorter, n - 1)
        if self.method == "witten-bell":
            total += len(following)
            own = {w: c / total for w, c in kept.items()}
        else:
            own = {w: (c - self._discount(n, c)) / total for w, c in kept.items()}
        return own.get(word, 0.0) + (1 - sum(own.values())) * below

    def _katz(self, word: int, shorter: Gram, n: int, kept: dict[int, int], total: int) -> float:
        own = {w: self._turing(n, c) for w, c in kept.items()}
        mass = sum(own.values())
        if len(kept) == self.vocabulary:
            return own[word] / mass
        if total - mass < 1e-9 * total:
            total += 1
        if word in own:
            return own[word] / total
        unseen = 1 - sum(self._backing(w, shorter, n - 1) for w in kept)
        return (1 - mass / total) / unseen * self._backing(word, shorter, n - 1)
