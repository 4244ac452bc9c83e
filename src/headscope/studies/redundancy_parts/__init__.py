"""The study of redundancy, in parts: the plan is `studies.redundancy`."""
