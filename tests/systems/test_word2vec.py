"""word2vec as a system."""

from __future__ import annotations

from fourfold import api
from fourfold.systems.word2vec import Word2Vec
from fourfold.testing import check_saved


def test_the_words_of_a_topic_are_neighbours() -> None:
    toy, source = Word2Vec.toy()
    run = api.fit(toy, source, out=False, epochs=60)
    for word in ("a0", "b3"):
        found = run.similar(word, top=5)
        assert {w[0] for w in found["word"]} == {word[0]}


def test_saved(tmp_path) -> None:  # type: ignore[no-untyped-def]
    check_saved(Word2Vec, tmp_path)
