"""Words alone, for `cost_model.py`: TF-IDF and logistic regression on the rows and tokens that the cost model learns from."""

from __future__ import annotations

from typing import Any

from cost_model_figures import SEED, pooled
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline

from steerguard.build.cost_data import LabelledSet, labelled_set
from steerguard.build.recipe_cost import CostModelRecipe
from steerguard.build.steps import BuildContext

PENALTIES = (1.0, 10.0, 100.0)
"""Inverse penalties that are compared on training rows."""


class WordsModel:
    """TF-IDF and logistic regression on the words of the same answers, cut at the same tokens."""

    def __init__(self, context: BuildContext, recipe: CostModelRecipe, measured: LabelledSet) -> None:
        seed = context.recipe.document.seed
        entry = recipe.labelled[0]
        train = labelled_set(context.data_folder, entry, context.tokenizer, seed=seed, where="artifact.labelled.0")
        every = labelled_set(
            context.data_folder,
            entry.model_copy(update={"max_per_question": None}),
            context.tokenizer,
            seed=seed,
            where="artifact.labelled.0",
        )
        self._decode = lambda rows, length: context.tokenizer.batch_decode([ids[:length] for ids in rows.given.answers])
        self._measured = measured
        self.penalty = self._chosen(train)
        self.scores = self._fitted(train)
        """Of the measured answers, by the words of the same rows."""
        self.scores_every_row = self._fitted(every)
        """The same by the words of every row that a cost model may be trained on."""
        self.rows, self.rows_every = len(train.harmful), len(every.harmful)

    def _fitted(self, train: LabelledSet) -> list[float]:
        model = _word_model(self.penalty)
        model.fit(self._decode(train, None), train.harmful)
        found: list[float] = model.decision_function(self._decode(self._measured, None)).tolist()
        return found

    def _chosen(self, train: LabelledSet) -> float:
        """Return the penalty with the best AUROC out of fold by question, on training rows."""
        texts, groups = self._decode(train, None), list(train.questions)

        def area(penalty: float) -> float:
            scores = cross_val_predict(
                _word_model(penalty),
                texts,
                list(train.harmful),
                groups=groups,
                cv=GroupKFold(5),
                method="decision_function",
            )
            return pooled(train.harmful, scores.tolist())

        return max(PENALTIES, key=area)


def _word_model(penalty: float) -> Any:
    return make_pipeline(
        TfidfVectorizer(sublinear_tf=True, min_df=2, ngram_range=(1, 2)),
        LogisticRegression(C=penalty, class_weight="balanced", max_iter=2000, random_state=SEED),
    )
