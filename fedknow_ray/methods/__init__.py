"""Learning methods: one file is one method, which knows nothing of seconds, links or Ray."""
