"""The vectors study: task vectors, function vectors, and the heads that write them. See `plan`."""
