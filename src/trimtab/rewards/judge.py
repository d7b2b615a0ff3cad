"""An independent second judge: TF-IDF of words and pairs of words, and a logistic regression.

It shares neither reviews nor architecture with the gold reward and is never used for tuning, so a gain that it sees too
is no quirk of the gold reward.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from trimtab.errors import DataError
from trimtab.records import PromptInput, Review
from trimtab.rewards.reward import judged_texts
from trimtab.rewards.snippets import cut_snippet
from trimtab.store.files import write_json

MAX_FEATURES = 200_000  # words and pairs of words of the vocabulary
SNIPPETS_PER_REVIEW = 5
REPORT_WORDS = 50
_WEIGHTING = {"ngram_range": (1, 2), "sublinear_tf": True}
"""Words of two characters or more and pairs of neighbours, lower-cased; 1 + log(count), idf, unit length."""


class TfidfJudge:
    """The Reward given by log-odds = idf-weighted, length-normalised counts times coefficients, plus intercept.

    `vocabulary` lists the words and pairs of words; `idf` and `coefficients` have one number for each of them.
    """

    def __init__(
        self,
        vocabulary: Sequence[str],
        idf: NDArray[np.float64],
        coefficients: NDArray[np.float64],
        intercept: float,
    ) -> None:
        self._vocabulary = list(vocabulary)
        self._idf, self._coefficients, self._intercept = idf, coefficients, intercept
        self._vectorizer = TfidfVectorizer(vocabulary=self._vocabulary, **_WEIGHTING)
        self._vectorizer.idf_ = idf
        self._products = 0

    def score(self, prompts: Sequence[PromptInput], responses: Sequence[str]) -> list[float]:
        """Log-odds of positive (nats) for each prompt and response; a text without known words gets the intercept."""
        texts = judged_texts(prompts, responses)
        if not texts:
            return []
        counts = self._vectorizer.transform(texts)
        self._products += counts.nnz
        scores: list[float] = (counts @ self._coefficients + self._intercept).tolist()
        return scores

    @property
    def flops(self) -> float:
        """Two for each known word or pair read: one product, one sum."""
        return 2.0 * self._products

    def save(self, folder: Path) -> None:
        """Write `vocabulary.json` and `weights.npz` into an existing folder; nothing is pickled."""
        write_json(folder / "vocabulary.json", self._vocabulary)
        weights = {"idf": self._idf, "coefficients": self._coefficients, "intercept": np.array(self._intercept)}
        np.savez(folder / "weights.npz", allow_pickle=False, **weights)


def load_judge(folder: Path) -> TfidfJudge:
    """The judge that `save` wrote; it gives the very same scores.

    Raises:
        DataError: the files are missing, unreadable or do not fit each other.
    """
    try:
        vocabulary = json.loads((folder / "vocabulary.json").read_text(encoding="utf-8"))
        with np.load(folder / "weights.npz", allow_pickle=False) as weights:
            idf, coefficients, intercept = weights["idf"], weights["coefficients"], float(weights["intercept"])
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"{folder} holds no judge ({error}): delete it and fit the judge again") from None
    if not len(vocabulary) == len(idf) == len(coefficients):
        raise DataError(
            f"{folder} holds {len(vocabulary)} words but {len(idf)} and {len(coefficients)} weights: delete it and fit "
            "the judge again"
        )
    return TfidfJudge(vocabulary, idf, coefficients, intercept)


def fit_judge(
    reviews: Sequence[Review], heldout: Sequence[Review], seed: int, snippet_words: tuple[int, int]
) -> tuple[TfidfJudge, dict[str, Any]]:
    """Fit on snippets of `reviews`, their lengths drawn from `snippet_words`; measure on 50 words of each of `heldout`.

    Returns:
        The judge, and a report: `accuracy_50_words`, `snippets`, `heldout`, `features`.

    Raises:
        DataError: `reviews` has only one label or no word that occurs twice, or `heldout` is empty.
    """
    if {review.label for review in reviews} != {0, 1}:
        raise DataError(f"the judge's {len(reviews)} reviews hold only one label: give positive and negative ones")
    if not heldout:
        raise DataError("the judge has no held-out reviews: give at least 1")
    rng = np.random.default_rng(seed)
    drawn = [review for review in reviews for _ in range(SNIPPETS_PER_REVIEW)]
    vectorizer = TfidfVectorizer(min_df=2, max_features=MAX_FEATURES, **_WEIGHTING)
    try:
        counts = vectorizer.fit_transform([cut_snippet(review.text, snippet_words, rng) for review in drawn])
    except ValueError as error:
        raise DataError(f"the judge cannot be fitted on {len(reviews)} reviews: {error}") from None
    model = LogisticRegression(C=3.0, solver="liblinear", random_state=seed)
    model.fit(counts, [review.label for review in drawn])
    vocabulary = vectorizer.get_feature_names_out().tolist()
    judge = TfidfJudge(vocabulary, vectorizer.idf_, model.coef_[0].copy(), float(model.intercept_[0]))
    texts = [cut_snippet(review.text, (REPORT_WORDS, REPORT_WORDS), rng) for review in heldout]
    labels = np.array([review.label for review in heldout])
    right = (np.array(judge.score(texts, [""] * len(texts))) > 0) == (labels == 1)
    return judge, {
        "accuracy_50_words": float(np.mean(right)),
        "snippets": len(drawn),
        "heldout": len(heldout),
        "features": len(vocabulary),
    }
