"""The heads study: which heads a model has, what each does for it, and what happens without it."""
