"""The policy: loading any vision-language model, LoRA on its language side, generating and scoring."""
