"""The study of heads, in parts: the plan is `studies.heads`."""
