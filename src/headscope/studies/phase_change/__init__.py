"""The phase-change study: when induction heads form in training, and what in-context learning needs of them."""
