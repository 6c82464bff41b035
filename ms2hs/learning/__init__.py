"""How networks learn: what they are shown, the one fit, and what it needs to go on exactly where it was."""
