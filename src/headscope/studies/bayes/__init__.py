"""Does a model learn from pairs (x, y) as Bayes' rule says, and which heads carry them?"""
