"""Whether a student's dynamics are those of its teacher; imported as ``compactff_md.validation``."""
