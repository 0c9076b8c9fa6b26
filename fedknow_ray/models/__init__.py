"""Networks: what they compute, how their weights lie in one flat vector, and what a step of them costs."""
