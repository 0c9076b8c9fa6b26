"""Gradient restoration of FedKNOW: what a past task would ask of the weights now, without its samples.

The pruned past model labels the *current* batch; the student's loss against these labels has the restored gradient:

    p = softmax(y / T)                                  y: the past model's logits on the classes of its task
    loss = -1/N sum_n sum_c p_nc log softmax(z_n / T)_c z: the student's logits on the same classes
    d loss / d z = (softmax(z / T) - p) / (N T)

The last line is why one forward pass of the student serves all past tasks: each needs a backward pass from its own
gradient of the logits only. N examples, C classes of the past task, T the temperature (2 in the authors' code).

Luopan et al., "FedKNOW: Federated Continual Learning with Signature Task Knowledge Integration at Edge", ICDE 2023,
arXiv:2212.01738. As in the authors' code there is no factor T^2 (which Hinton et al., 2015, arXiv:1503.02531, advise);
differs from it in that the past model's labels are computed once per task, not per batch.
"""

from __future__ import annotations

import torch
from torch import Tensor


def soft_labels(logits_NC: Tensor, temperature: float) -> Tensor:
    """Return the past model's probabilities softmax(y / T), (N, C), detached.

    Raises:
        ValueError: if the temperature is not above 0.
    """
    return torch.softmax(logits_NC.detach() / _checked(temperature), dim=-1)


def hard_labels(logits_NC: Tensor) -> Tensor:
    """Return one-hot rows (N, C) at the largest logit (or probability), ties to the lower class.

    In place of soft labels, with a temperature of 1, they make the loss the cross entropy on pseudo-labels.
    """
    one_hot_NC = torch.zeros_like(logits_NC)
    return one_hot_NC.scatter_(1, logits_NC.detach().argmax(dim=1, keepdim=True), 1.0)


def distillation_loss(student_logits_NC: Tensor, teacher_probabilities_NC: Tensor, temperature: float) -> Tensor:
    """Return the mean soft cross entropy, a scalar.

    Raises:
        ValueError: if the temperature is not above 0.
    """
    log_q_NC = torch.log_softmax(student_logits_NC / _checked(temperature), dim=1)
    return -(teacher_probabilities_NC * log_q_NC).sum(dim=1).mean()


def distillation_logit_gradient(
    student_logits_NC: Tensor, teacher_probabilities_NC: Tensor, temperature: float
) -> Tensor:
    """Return the gradient (N, C) of `distillation_loss` with respect to the student's logits, detached.

    The teacher's rows must add up to 1. A batch of losses (k, N, C) gives as many gradients.

    Raises:
        ValueError: if the temperature is not above 0.
    """
    q_NC = soft_labels(student_logits_NC, temperature)
    return (q_NC - teacher_probabilities_NC) * (1.0 / temperature / student_logits_NC.shape[-2])


def _checked(temperature: float) -> float:
    if not temperature > 0:
        raise ValueError(f"the temperature must be above 0, got {temperature}")
    return temperature
