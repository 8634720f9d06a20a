"""What the state machines decide and do: their handlers call it, and whoever watches them asks it."""
