"""From teacher labels to a student file: sampling, labelling, data checks, training, metrics, pictures.

Import it as ``compactff_md.training`` only: a bare ``import training`` from the root of the repository
would make a second copy of every class.
"""
