"""The built-in world: drawn scenes of coloured shapes whose truth is known exactly, with questions and answers.

`scene` decides what is in an image, `draw` paints it, `language`, `questions` and `instructions` talk about it, and
`source` hands it out as `Sample`s. Nothing here imports torch.
"""
