"""ivLBL, the inverse vector log-bilinear model of the words around a word: Mnih and Kavukcuoglu 2013.

"Learning word embeddings efficiently with noise-contrastive estimation", NIPS 26: each word of the context is
predicted by itself from the middle word, by the product of their vectors and a bias, without
position-dependent weights. Trained by SGD at a falling rate, where the paper has Adagrad.

    fourfold fit ivlbl corpus.txt --width 300 --window 5 --negatives 25

Result: WordSim-353 0.538 (25 negatives: 0.585), Google analogies 6.7% (7.5%) of the 6,571 whose words are known, after 5
epochs of the first 1.17 M words of text8 at width 100, means of three seeds: fourfold fit ivlbl text8_first.txt.gz, then
evaluate. Skip-gram with hierarchical softmax: 0.560, 7.3%.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from fourfold.core.system import system
from fourfold.tasks.bilinear_vectors import BilinearVectors


@system("ivlbl", reads="text")
class IVLBL(BilinearVectors):
    """Vectors of words, learned by telling each word of a window's context from noise."""

    algorithm: ClassVar[Literal["skip-gram", "cbow"]] = "skip-gram"
