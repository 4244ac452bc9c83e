"""Studies: one question each, as a command that ends in a report."""
