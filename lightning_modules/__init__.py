"""Training on Lightning: objectives, the modules that fit a policy, the module that builds pairs, callbacks."""
