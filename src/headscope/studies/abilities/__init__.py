"""The abilities study: which kinds of learning in context rest on the induction heads of a model."""
