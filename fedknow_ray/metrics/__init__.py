"""Numbers that say how well a run learnt, from its accuracy table."""

from fedknow_ray.metrics.continual import (
    accuracy_matrix,
    average_accuracy,
    backward_transfer,
    client_accuracies,
    forgetting,
    forgetting_relative,
)

__all__ = [
    "accuracy_matrix",
    "average_accuracy",
    "backward_transfer",
    "client_accuracies",
    "forgetting",
    "forgetting_relative",
]
