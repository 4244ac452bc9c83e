"""The study of Bayesian updates, in parts: the plan is `studies.bayes`."""
