"""The configuration: what keys exist, what they may be, what goes together, and what each stage gets. Imports no torch."""
