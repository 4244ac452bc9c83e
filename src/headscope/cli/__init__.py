"""The command: one thin file per verb, loaded on use."""
