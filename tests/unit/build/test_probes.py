"""Estimators agree with scikit-learn, and out-of-fold scores are honest."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from steerguard.build.probes import fit_probe, out_of_fold_scores
from steerguard.errors import BuildError
from steerguard.evaluate.proportions import auroc

ENDS = ((0, "end"), (1, "end"))


def classes(shift, count=30, blocks=2, width=8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    benign = torch.randn(count, blocks, width, generator=generator) * 3 + 10
    harmful = torch.randn(count, blocks, width, generator=generator) * 3 + 10 + shift
    return harmful, benign


def test_logistic_regression_scores_equal_a_standardising_pipeline():
    harmful, benign = classes(shift=2.0)
    probe = fit_probe(harmful, benign, ENDS, "logistic_regression", inverse_penalty=0.5)
    labels = np.r_[np.ones(30), np.zeros(30)]
    expected = []
    for block in range(2):
        features = torch.cat([harmful[:, block], benign[:, block]]).double().numpy()
        pipeline = make_pipeline(StandardScaler(), LogisticRegression(C=0.5, class_weight="balanced", max_iter=5000))
        expected.append(pipeline.fit(features, labels).decision_function(features))
    scores = probe.score(torch.cat([harmful, benign])).numpy()
    np.testing.assert_allclose(scores, np.mean(expected, axis=0), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("estimator", ["mean_difference", "logistic_regression", "lda"])
def test_every_estimator_scores_harmful_above_benign(estimator):
    harmful, benign = classes(shift=4.0)
    probe = fit_probe(harmful, benign, ENDS, estimator)
    assert auroc(probe.score(harmful).tolist(), probe.score(benign).tolist()) > 0.95
    assert float(probe.score(harmful).mean()) > 0 > float(probe.score(benign).mean())


def test_out_of_fold_scores_of_noise_do_not_separate_although_fitted_ones_do():
    harmful, benign = classes(shift=0.0, count=40, width=60)
    fitted = fit_probe(harmful, benign, ENDS, "logistic_regression", inverse_penalty=100.0)
    assert auroc(fitted.score(harmful).tolist(), fitted.score(benign).tolist()) > 0.95
    out_of_fold = out_of_fold_scores(harmful, benign, "logistic_regression", inverse_penalty=100.0, folds=5, seed=0)
    assert 0.2 < auroc(*out_of_fold) < 0.8


def test_more_folds_than_prompts_are_refused():
    harmful, benign = classes(shift=1.0, count=3)
    with pytest.raises(BuildError, match="Too few prompts"):
        out_of_fold_scores(harmful, benign, "mean_difference", inverse_penalty=1.0, folds=4, seed=0)
