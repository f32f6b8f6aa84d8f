"""vLBL, the vector log-bilinear model of a word given the words around it: Mnih and Kavukcuoglu 2013.

"Learning word embeddings efficiently with noise-contrastive estimation", NIPS 26: the score of a word is the
product of its vector with the mean of its context's, plus a bias, without position-dependent weights.
Trained by SGD at a falling rate, where the paper has Adagrad.

    fourfold fit vlbl corpus.txt --width 300 --window 5 --negatives 25

Result: WordSim-353 0.497 (25 negatives: 0.521), Google analogies 6.0% (7.0%) of the 6,571 whose words are known, after 5
epochs of the first 1.17 M words of text8 at width 100, means of three seeds: fourfold fit vlbl text8_first.txt.gz, then
evaluate.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from fourfold.core.system import system
from fourfold.tasks.bilinear_vectors import BilinearVectors


@system("vlbl", reads="text")
class VLBL(BilinearVectors):
    """Vectors of words, learned by telling the middle word of a window from noise."""

    algorithm: ClassVar[Literal["skip-gram", "cbow"]] = "cbow"
