"""How much memory a step or a generation takes, by calculation."""
