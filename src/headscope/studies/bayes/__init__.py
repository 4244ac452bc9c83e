"""The study of Bayesian updates: does a model learn from pairs (x, y) as Bayes' rule says, and by which heads?"""
