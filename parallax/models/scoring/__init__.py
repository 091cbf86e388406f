"""Log-probs of given responses, in either layout."""
