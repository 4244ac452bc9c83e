"""The study of task and function vectors, in parts: the plan is `studies.vectors`."""
