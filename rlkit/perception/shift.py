"""Weights that correct for distribution shift, when a model is trained on one distribution p and used on another, q.

In covariate shift, p(x) changes and p(y|x) stays; a sample's weight is q(x)/p(x), which a classifier that tells old
from new inputs estimates. In label shift, p(y) changes and p(x|y) stays; a sample's weight is q(y)/p(y), which follows
from a model's confusion matrix and its predictions on new inputs. Neither needs labels of the new distribution.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from rlkit.errors import RlkitError, check_range


def density_ratio(
    old: Tensor,
    new: Tensor,
    *,
    model: nn.Module | None = None,
    weight_decay: float = 1e-3,
    steps: int = 100,
    limit: float = 20.0,
) -> Tensor:
    """Estimates q(x)/p(x) at the old inputs, from (n, …) old and (m, …) new ones: (n,), of mean 1.

    The best classifier that tells new from old inputs has the logit log(q(x) m / (p(x) n)). It is a linear one, or
    `model`, (rows, …) -> (rows, 1), which is trained in place; `steps` is the most iterations of L-BFGS. Ratios are
    clipped to `limit` before they are divided by their mean. Raises RlkitError for inputs of different shapes.
    """
    if old.shape[1:] != new.shape[1:] or not len(old) or not len(new):
        raise RlkitError(f"old and new inputs must be rows of one shape, not {list(old.shape)} and {list(new.shape)}")
    check_range("limit", limit, 1)
    inputs = torch.cat([old, new])
    is_new = torch.cat([torch.zeros(len(old)), torch.ones(len(new))])
    classifier = model or nn.Sequential(nn.Flatten(), nn.Linear(old[0].numel(), 1))
    optimizer = torch.optim.LBFGS(classifier.parameters(), max_iter=steps, line_search_fn="strong_wolfe")

    def closure() -> float:
        loss = functional.binary_cross_entropy_with_logits(classifier(inputs)[:, 0], is_new)
        weights = [parameter for parameter in classifier.parameters() if parameter.dim() > 1]
        penalty = torch.stack([(weight**2).sum() for weight in weights]).sum()
        optimizer.zero_grad()
        torch.autograd.backward(loss + weight_decay * penalty)
        return float(loss.detach() + weight_decay * penalty.detach())

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    with torch.no_grad():
        ratio: Tensor = (classifier(old)[:, 0].exp() * len(old) / len(new)).clamp(max=limit)
    return ratio / ratio.mean()


def confusion_matrix(predicted: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """Returns C[i, j], the share of all samples that are of class j and predicted as i: (classes, classes).

    `predicted` and `labels` are (n,) class numbers.
    """
    counts = torch.bincount(predicted * num_classes + labels, minlength=num_classes**2)
    return counts.view(num_classes, num_classes).double() / len(labels)


def label_ratio(confusion: Tensor, predicted: Tensor) -> Tensor:
    """Estimates q(y)/p(y) of each class from the confusion matrix on old data and predictions on new: (classes,).

    Black-box shift estimation (Lipton et al. 2018) solves C w = shares of the classes among the new predictions for w,
    which is clipped at 0. Raises RlkitError if the model's predictions don't tell the classes apart.
    """
    classes = len(confusion)
    shares = torch.bincount(predicted, minlength=classes).double() / len(predicted)
    if torch.linalg.cond(confusion) > 1e6:
        raise RlkitError("label shift can't be told: the confusion matrix is singular, so classes are never told apart")
    ratio: Tensor = torch.linalg.solve(confusion, shares)
    return ratio.clamp(min=0)


def reweighted_posterior(probabilities: Tensor, ratio: Tensor) -> Tensor:
    """Corrects a classifier's probabilities for label shift: p(y|x) · w(y), normalised.

    `probabilities` is (n, classes), and `ratio`, w, is (classes,).
    """
    weighted = probabilities * ratio.to(probabilities.dtype)
    return weighted / weighted.sum(1, keepdim=True)


def effective_samples(weights: Tensor) -> float:
    """Returns (Σw)² / Σw², the number of equally weighted samples that are worth the weighted ones (Kish 1965)."""
    return float(weights.sum() ** 2 / (weights**2).sum())
