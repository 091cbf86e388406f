"""Makes the small image-text model of the built-in world: CLIP's architecture, what CSR's image relevance is measured by.

`build.make_tiny_clip` runs the whole recipe: tokenizer, a vision side that stands on the built-in model's frozen vision
tower (as LLaVA-1.5 and CSR's judge share theirs), contrastive training against near misses, measurements, files.
"""
