"""Models: any served causal language model, opened without conversion: run, capture, edit, generate."""
