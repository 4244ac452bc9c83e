"""The redundancy study: where a task learnt in context is formed, and which heads form it once those are ablated."""
