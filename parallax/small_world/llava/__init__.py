"""Makes the built-in model: a LLaVA of about three million parameters that sees well and speaks from habit.

`build.make_tiny_llava` runs the whole recipe: tokenizer, vision tower (taught to see, then frozen), language side
(taught on habitual scenes and stopped early), and the measurements that go into the manifest.
"""
