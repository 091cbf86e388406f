"""From an image and a conversation to what the model reads."""
