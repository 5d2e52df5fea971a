"""Runs the host's protocols on our checkpoints and collects what they say."""
